using CheckpointEngine.Internal;
using CheckpointEngine.Metas;

namespace CheckpointEngine;

// What is told: our own metas, those of others that we know, and when they change.
public sealed partial class ParameterServer
{
    /// <summary>The metas of a checkpoint; the same object until something changes.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>.</exception>
    public PublishedMetas GetMetas(string name, MetasScope scope = MetasScope.World)
    {
        ArgumentNullException.ThrowIfNull(name);
        lock (_lock)
        {
            if (!_records.TryGetValue(name, out CheckpointRecord? record) || !record.IsVisible)
            {
                string known = string.Join(", ", _records.Where(entry => entry.Value.IsVisible).Select(entry => entry.Key).Order(StringComparer.Ordinal).Take(20));
                ThrowHelper.Throw(CheckpointError.NotFound, $"checkpoint '{name}' is not known here; known: {(known.Length == 0 ? "none" : known)}");
            }
            if (record.Held is { IsUpdating: true })
            {
                ThrowHelper.Throw(CheckpointError.Busy, $"checkpoint '{name}' is being updated by its owner; try again");
            }
            return record.GetMetas(scope, this);
        }
    }

    /// <summary>Waits until the metas of a checkpoint are others than those of <paramref name="entityTag"/>; they may be so at once.</summary>
    /// <param name="name">The checkpoint.</param>
    /// <param name="entityTag"><see cref="PublishedMetas.EntityTag"/> of those that are known.</param>
    /// <param name="scope">Ours, or the world's.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>: it is not known here, or no more.</exception>
    /// <exception cref="OperationCanceledException">The wait was ended.</exception>
    public async Task<PublishedMetas> WaitForMetasAsync(string name, string entityTag, MetasScope scope = MetasScope.World, CancellationToken cancellationToken = default)
    {
        while (true)
        {
            Task changed = Volatile.Read(ref _changed).Task;        // before the look, so that none is missed
            try
            {
                PublishedMetas metas = GetMetas(name, scope);
                if (metas.EntityTag != entityTag)
                {
                    return metas;
                }
            }
            catch (CheckpointEngineException busy) when (busy.Error == CheckpointError.Busy)
            {
                // They will be others when the update is over.
            }
            await changed.WaitAsync(cancellationToken).ConfigureAwait(false);
        }
    }

    // After every change of what GetMetas tells.
    private void TellChange()
        => Interlocked.Exchange(ref _changed, new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)).TrySetResult();

    /// <summary>Replaces what is known of the other owners of <paramref name="name"/> by a stranger's metas; owners without buffers are dropped.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: an owner lacks address or device.</exception>
    public void LoadMetas(string name, CheckpointMetas metas)
    {
        CheckName(name);
        ArgumentNullException.ThrowIfNull(metas);
        CheckpointMetas useful = metas.WithoutEmptyOwners();
        useful.ValidateForLoading();
        lock (_lock)
        {
            if (!_records.TryGetValue(name, out CheckpointRecord? record))
            {
                _records.Add(name, record = new CheckpointRecord());
            }
            record.SetRemote(useful);
        }
        TellChange();
        LogLoaded(name, useful.Owners.Length);
    }

    /// <summary>Pulls each peer's own metas of <paramref name="name"/> (<c>?scope=local</c> at its base URL) and merges them by rank with ours.</summary>
    /// <param name="name">The checkpoint.</param>
    /// <param name="peerUrls">Base URLs of the peers' HTTP servers.</param>
    /// <param name="clientOptions">How to reach them.</param>
    /// <param name="cancellationToken">Stops it; what was known before stays.</param>
    /// <exception cref="CheckpointEngineException">A peer did not answer, or two of them (or one and we) have the same rank.</exception>
    public async Task GatherMetasAsync(string name, IReadOnlyList<string> peerUrls, MetasClientOptions? clientOptions = null, CancellationToken cancellationToken = default)
    {
        CheckName(name);
        ArgumentNullException.ThrowIfNull(peerUrls);
        using var client = new MetasClient(clientOptions);
        string path = $"/v1/checkpoints/{Uri.EscapeDataString(name)}/metas?scope=local";
        CheckpointMetas[] parts = await Task.WhenAll(peerUrls.Select(url => client.FetchAsync(url.TrimEnd('/') + (url.StartsWith("unix:", StringComparison.Ordinal) ? ":" : "") + path, cancellationToken))).ConfigureAwait(false);
        var ranks = new Dictionary<int, string>();
        if (FindCheckpoint(name) is not null)
        {
            ranks.Add(Rank, "this holder");
        }
        for (int peer = 0; peer < parts.Length; peer++)
        {
            foreach (MetasOwner owner in parts[peer].Owners)
            {
                if (!ranks.TryAdd(owner.Rank, peerUrls[peer]))
                {
                    ThrowHelper.Throw(CheckpointError.InvalidData, $"gather metas of '{name}': rank {owner.Rank} is both {ranks[owner.Rank]} and {peerUrls[peer]}; give every holder a rank of its own (--rank)");
                }
            }
        }
        LoadMetas(name, CheckpointMetas.Merge(parts));
    }
}
