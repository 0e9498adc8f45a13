using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;

namespace CheckpointEngine;

/// <summary>
/// Holds checkpoints in registered memory, tells strangers where they are, and reads other holders' checkpoints into its own memory.
/// </summary>
/// <remarks>Any number of threads. <see cref="StartAsync"/> first, <see cref="DisposeAsync"/> last.</remarks>
public sealed class ParameterServer : IAsyncDisposable
{
    /// <summary>Makes a server that does not listen yet.</summary>
    public ParameterServer(ParameterServerOptions options) => Options = options;

    /// <summary>The options it was made with.</summary>
    public ParameterServerOptions Options { get; }

    /// <summary>This owner's rank.</summary>
    public int Rank => Options.Rank;

    /// <summary><c>host:port</c> of the handshake listener, as metas tell it.</summary>
    public string P2pStoreAddress => throw new NotImplementedException();

    /// <summary><c>ce://host:port</c> of the peer service.</summary>
    public string PeerUrl => throw new NotImplementedException();

    /// <summary>Names of the checkpoints held here or known by loaded metas, sorted.</summary>
    public IReadOnlyList<string> CheckpointNames => throw new NotImplementedException();

    /// <summary>Starts the listeners.</summary>
    public Task StartAsync(CancellationToken cancellationToken = default) => throw new NotImplementedException();

    /// <summary>Holds the checkpoint of <paramref name="paths"/> (a directory, .safetensors files, or an index) under <paramref name="name"/> and registers it. All or nothing.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.AlreadyExists"/>; or what was wrong with the files.</exception>
    /// <returns>The checkpoint; owned by the server, valid until it is unregistered.</returns>
    public Task<HeldCheckpoint> RegisterAsync(string name, IReadOnlyList<string> paths, CancellationToken cancellationToken = default)
        => throw new NotImplementedException();

    /// <summary>Takes a checkpoint away: nobody new reads it, those under way are waited for (<see cref="ParameterServerOptions.DrainTimeout"/>), its memory is freed.</summary>
    /// <returns>False when there was none of that name.</returns>
    public Task<bool> UnregisterAsync(string name, CancellationToken cancellationToken = default) => throw new NotImplementedException();

    /// <summary>The checkpoint held here under <paramref name="name"/>, or null.</summary>
    public HeldCheckpoint? FindCheckpoint(string name) => throw new NotImplementedException();

    /// <summary>The metas of a checkpoint.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>.</exception>
    public PublishedMetas GetMetas(string name, MetasScope scope = MetasScope.World) => throw new NotImplementedException();

    /// <summary>Replaces what is known of the other owners of <paramref name="name"/> by a stranger's metas.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: an owner lacks address or device.</exception>
    public void LoadMetas(string name, CheckpointMetas metas) => throw new NotImplementedException();

    /// <summary>Pulls each peer's own metas of <paramref name="name"/> (<c>?scope=local</c> at its base URL) and merges them by rank with ours.</summary>
    /// <param name="name">The checkpoint.</param>
    /// <param name="peerUrls">Base URLs of the peers' HTTP servers.</param>
    /// <param name="clientOptions">How to reach them.</param>
    /// <param name="cancellationToken">Stops it; what was known before stays.</param>
    public Task GatherMetasAsync(string name, IReadOnlyList<string> peerUrls, MetasClientOptions? clientOptions = null, CancellationToken cancellationToken = default)
        => throw new NotImplementedException();

    /// <summary>Reads the checkpoint that <paramref name="metas"/> describe. Nothing is visible before all of it is here and checked.</summary>
    /// <exception cref="CheckpointEngineException">Owner, range and reason; what was allocated has been released.</exception>
    public Task<JoinReport> JoinAsync(CheckpointMetas metas, JoinOptions options, IProgress<JoinProgress>? progress = null, CancellationToken cancellationToken = default)
        => throw new NotImplementedException();

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
