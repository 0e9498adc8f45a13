using System.Collections.Concurrent;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Http.Tests.Support;

/// <summary>A store that remembers what was asked of it, and fails or waits where a test says so.</summary>
internal sealed class FakeStore : ICheckpointStore
{
    private int _generation;

    internal ConcurrentDictionary<string, PublishedMetas> World { get; } = new(StringComparer.Ordinal);

    internal ConcurrentDictionary<string, PublishedMetas> Local { get; } = new(StringComparer.Ordinal);

    internal ConcurrentDictionary<string, IReadOnlyList<SideFile>> SideFiles { get; } = new(StringComparer.Ordinal);

    internal ConcurrentQueue<string> Calls { get; } = [];

    internal ConcurrentQueue<IReadOnlyList<string>> Registered { get; } = [];

    internal RegistrationOptions? RegisteredWith { get; private set; }

    internal InferenceUpdateOptions? Updated { get; private set; }

    internal CheckpointMetas? Loaded { get; private set; }

    internal IReadOnlyList<string>? GatherPeers { get; private set; }

    internal MetasClientOptions? GatherClient { get; private set; }

    /// <summary>Thrown by every call from now on.</summary>
    internal Exception? Failure { get; set; }

    /// <summary>Run inside RegisterAsync.</summary>
    internal Func<CancellationToken, Task>? OnRegister { get; set; }

    /// <summary>What it says of itself.</summary>
    internal Func<ServerStatus> Status { get; set; } = () => new()
    {
        Version = EngineVersion.Text,
        Started = DateTimeOffset.UtcNow,
        Rank = 0,
        P2pStoreAddress = "",
        PeerUrl = "",
        Planes = [],
        Checkpoints = [],
        Joins = [],
        Readers = [],
        Conversations = 0,
        SentBytes = 0,
    };

    public ServerStatus GetStatus()
    {
        Record("status");
        return Status();
    }

    public int CountHeld() => Local.Count;

    public IReadOnlyList<string> CheckpointNames => [.. World.Keys.Order(StringComparer.Ordinal)];

    internal FakeStore Publish(string name, CheckpointMetas metas)
    {
        var published = new PublishedMetas(metas, $"\"g{Interlocked.Increment(ref _generation)}\"");
        World[name] = published;
        Local[name] = published;
        return this;
    }

    public async Task RegisterAsync(string name, IReadOnlyList<string> paths, RegistrationOptions options, CancellationToken cancellationToken)
    {
        Record($"{(options.Replace ? "replace" : "register")} {name}");
        RegisteredWith = options;
        Registered.Enqueue(paths);
        if (OnRegister is not null)
        {
            await OnRegister(cancellationToken);
        }
    }

    /// <summary>What a wait for other metas ends with; by default it lasts until it is cancelled.</summary>
    internal Func<CancellationToken, Task<PublishedMetas>>? OnWait { get; set; }

    public async Task<PublishedMetas> WaitForMetasAsync(string name, string entityTag, MetasScope scope, CancellationToken cancellationToken)
    {
        Record($"wait {name} {entityTag}");
        if (OnWait is not null)
        {
            return await OnWait(cancellationToken);
        }
        await Task.Delay(Timeout.Infinite, cancellationToken);
        throw new InvalidOperationException();
    }

    public Task UnregisterAsync(string name, bool freeSharedPool)
    {
        Record($"unregister {name}{(freeSharedPool ? " and its pool" : "")}");
        World.TryRemove(name, out _);
        return Task.CompletedTask;
    }

    public IReadOnlyList<SideFile>? FindSideFiles(string name)
    {
        Record($"side-files {name}");
        return SideFiles.GetValueOrDefault(name);
    }

    public PublishedMetas GetMetas(string name, MetasScope scope)
    {
        Record($"get {name} {scope}");
        return (scope == MetasScope.Local ? Local : World).GetValueOrDefault(name)
            ?? throw new CheckpointEngineException(CheckpointError.NotFound, $"no checkpoint '{name}' is known here");
    }

    public void LoadMetas(string name, CheckpointMetas metas)
    {
        Record($"load {name}");
        metas.ValidateForLoading();
        Loaded = metas;
        Publish(name, metas);
    }

    public Task UpdateAsync(string name, InferenceUpdateOptions options, CancellationToken cancellationToken)
    {
        Record($"update {name}");
        Updated = options;
        return Task.CompletedTask;
    }

    public Task GatherMetasAsync(string name, IReadOnlyList<string> peerUrls, MetasClientOptions clientOptions, CancellationToken cancellationToken)
    {
        Record($"gather {name}");
        GatherPeers = peerUrls;
        GatherClient = clientOptions;
        return Task.CompletedTask;
    }

    private void Record(string call)
    {
        Calls.Enqueue(call);
        if (Failure is not null)
        {
            throw Failure;
        }
    }
}
