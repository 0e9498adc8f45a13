using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Join;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine;

// What is held: how it comes, changes and goes.
public sealed partial class ParameterServer
{
    /// <summary>Holds the checkpoint of <paramref name="paths"/> (a directory, .safetensors files, or an index) under <paramref name="name"/> and registers it. All or nothing.</summary>
    /// <param name="name">1 to 255 bytes as UTF-8.</param>
    /// <param name="paths">One path with its side files, or several .safetensors files.</param>
    /// <param name="cancellationToken">Ends a copy; nothing is left.</param>
    /// <returns>The checkpoint; owned by the server, valid until it is unregistered.</returns>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.AlreadyExists"/>; or what was wrong with the files.</exception>
    public Task<HeldCheckpoint> RegisterAsync(string name, IReadOnlyList<string> paths, CancellationToken cancellationToken)
        => RegisterAsync(name, paths, null, null, cancellationToken);

    /// <summary>As <see cref="RegisterAsync(string, IReadOnlyList{string}, CancellationToken)"/>, and tells how far a copy is.</summary>
    /// <param name="name">1 to 255 bytes as UTF-8.</param>
    /// <param name="paths">One path with its side files, or several .safetensors files.</param>
    /// <param name="progress">Told about twenty times a second, from a thread of the pool; files that are mapped in place are told once, when they are.</param>
    /// <param name="cancellationToken">Ends a copy; nothing is left.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.AlreadyExists"/>; or what was wrong with the files.</exception>
    public Task<HeldCheckpoint> RegisterAsync(string name, IReadOnlyList<string> paths, IProgress<LoadProgress>? progress, CancellationToken cancellationToken)
        => RegisterAsync(name, paths, progress, null, cancellationToken);

    /// <summary>As <see cref="RegisterAsync(string, IReadOnlyList{string}, CancellationToken)"/>, with options of its own.</summary>
    /// <param name="name">1 to 255 bytes as UTF-8.</param>
    /// <param name="paths">One path with its side files, or several .safetensors files.</param>
    /// <param name="progress">As above; null: nobody is told.</param>
    /// <param name="options">What is otherwise than the server's options say; null: nothing.</param>
    /// <param name="cancellationToken">Ends a copy; nothing is left.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.AlreadyExists"/>; or what was wrong with the files.</exception>
    public async Task<HeldCheckpoint> RegisterAsync(string name, IReadOnlyList<string> paths, IProgress<LoadProgress>? progress = null, RegistrationOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(paths);
        ArgumentOutOfRangeException.ThrowIfZero(paths.Count, nameof(paths));
        MemoryPool? pool = options?.SharedPool ?? Options.SharedPool ? _pool : null;
        Reserve(name, options?.Replace == true);
        try
        {
            using ConsumedFiles? consumed = Options.Consume ? new ConsumedFiles(paths) : null;
            HeldCheckpoint held;
            try
            {
                held = await LoadAsync(pool is null ? Options.Hold : HoldMode.Anonymous).ConfigureAwait(false);
            }
            catch (CheckpointEngineException refused) when (Options.Hold != HoldMode.Anonymous
                && (Options.Transport == TransportChoice.Rdma ? refused.NativeCode == Interop.Libc.EFAULT : _mooncake is not null && refused.Error == CheckpointError.NotSupported))
            {
                LogCopied(name, refused.Message);       // freed by now
                held = await LoadAsync(HoldMode.Anonymous).ConfigureAwait(false);
            }
            consumed?.Remove().ForEach(remark => LogNotConsumed(name, remark));
            LogRegistered(name, held.Tensors.Count, held.DataBytes);
            return held;
        }
        catch
        {
            Unreserve(name);
            throw;
        }

        async Task<HeldCheckpoint> LoadAsync(HoldMode hold)
        {
            CheckpointDigests? digests = null;
            HeldCheckpoint loaded = await Task.Run(
                () => CheckpointLoader.Load(name, paths, hold, Options.Pin, Options.Digest, progress, cancellationToken, out digests, _registry, pool), cancellationToken).ConfigureAwait(false);
            await PublishAsync(loaded, digests, "files", pool, options?.Replace == true).ConfigureAwait(false);
            return loaded;
        }
    }

    /// <summary>Holds the caller's own tensors in place under <paramref name="name"/> and registers them; nothing is copied. All or nothing.</summary>
    /// <param name="name">1 to 255 bytes as UTF-8.</param>
    /// <param name="tensors">The tensors; their memory stays mapped (and locked as <see cref="ParameterServerOptions.Pin"/> says), and unchanged outside of <see cref="BeginUpdateAsync"/> and <see cref="CommitUpdate"/>, until the checkpoint is unregistered.</param>
    /// <returns>The checkpoint; owned by the server, valid until it is unregistered.</returns>
    /// <exception cref="ArgumentException">There are no tensors, or two have one name.</exception>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.AlreadyExists"/>: the name, or memory that another checkpoint has.</exception>
    public HeldCheckpoint RegisterTensors(string name, CallerTensors tensors)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        Reserve(name);
        try
        {
            HeldCheckpoint held = tensors.ToCheckpoint(name, Options.Pin);
            HeldEntry entry = MakeEntry(held, null, null);
            try
            {
                if (_engine is not null)
                {
                    entry.Register(_registry);
                }
                Publish(entry, "tensors", replace: false);
            }
            catch
            {
                FreeAsync(entry).GetAwaiter().GetResult();      // the caller may free its memory when this has thrown
                throw;
            }
            LogRegistered(name, held.Tensors.Count, held.DataBytes);
            return held;
        }
        catch
        {
            Unreserve(name);
            throw;
        }
    }

    /// <summary>
    /// Takes the caller's tensors out of reach so that they may be changed: reads under way are waited for (<see cref="ParameterServerOptions.DrainTimeout"/>)
    /// and then cut. Who asks for the metas meanwhile is told <see cref="CheckpointError.Busy"/>.
    /// </summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>.</exception>
    /// <exception cref="InvalidOperationException">Its tensors are not the caller's, or an update has begun already.</exception>
    public async Task BeginUpdateAsync(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        HeldEntry entry;
        Task begin;
        lock (_lock)
        {
            CheckpointRecord record = FindHeld(name);
            entry = record.Held!;
            if (!entry.Checkpoint.IsOfCaller)
            {
                throw new InvalidOperationException($"update '{name}': it is of files or of a join; only tensors of the caller change in place");
            }
            if (entry.IsUpdating)
            {
                throw new InvalidOperationException($"update '{name}': an update has begun already");
            }
            entry.IsUpdating = true;
            entry.Changing = begin = TakeOutOfReachAsync(entry);
        }
        _audit.UpdateBegan(name, entry.Generation);
        await begin.ConfigureAwait(false);      // not cancellable, but bounded: half a checkpoint is no state
    }

    private async Task TakeOutOfReachAsync(HeldEntry entry)
    {
        await Task.Yield();                                 // away from the lock
        await LetReadersEndAsync(entry).ConfigureAwait(false);
        if (_engine is not null)
        {
            await _engine.UnregisterAsync(entry.Ranges, range => _localPeers?.CutHoldersOf(range)).ConfigureAwait(false);
        }
        await entry.StopHashingAsync().ConfigureAwait(false);
        lock (_lock)
        {
            entry.Ranges.Clear();
            entry.IsOutOfReach = true;
        }
    }

    /// <summary>Publishes the changed tensors as a new generation, with digests of their own. A join that began before the update fails; it never mixes generations.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>.</exception>
    /// <exception cref="InvalidOperationException">No update has begun, or its begin has not returned.</exception>
    public void CommitUpdate(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        HeldEntry entry;
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            entry = FindHeld(name).Held!;
            if (!entry.IsOutOfReach)
            {
                throw new InvalidOperationException($"update '{name}': no update has begun");
            }
            entry.IsOutOfReach = false;
            entry.Changing = done.Task;         // who takes it away waits for that
        }
        bool isRegistered = false;
        try
        {
            entry.RenewDigests();
            if (_engine is not null)
            {
                entry.Register(_registry);      // of large memory it takes seconds: away from the lock
                entry.StartHashing();
            }
            isRegistered = true;
        }
        finally
        {
            lock (_lock)
            {
                entry.IsUpdating = !isRegistered;
                entry.IsOutOfReach = !isRegistered;
                if (isRegistered)
                {
                    entry.Uses.Open();
                }
                if (isRegistered && _records.TryGetValue(name, out CheckpointRecord? record) && record.Held == entry)
                {
                    record.SetHeld(entry);
                }
            }
            done.SetResult();
        }
        TellChange();
        EngineMetrics.Changed(CheckpointChange.Updated);
        LogUpdated(name);
        _audit.UpdateCommitted(name, entry.Generation);
    }

    /// <summary>Takes a checkpoint away: nobody new reads it, those under way are waited for (<see cref="ParameterServerOptions.DrainTimeout"/>), its memory is freed, or kept where it is of the shared pool. What other owners are known to hold is forgotten.</summary>
    /// <returns>False when there was none of that name.</returns>
    public Task<bool> UnregisterAsync(string name, CancellationToken cancellationToken) => UnregisterAsync(name, freeSharedPool: false, cancellationToken);

    /// <summary>As <see cref="UnregisterAsync(string, CancellationToken)"/>.</summary>
    /// <param name="name">The checkpoint.</param>
    /// <param name="freeSharedPool">When it is of the shared pool: its memory is freed, and so is what the pool keeps of others (upstream's <c>force</c>).</param>
    /// <param name="cancellationToken">Looked at before anything is done.</param>
    /// <returns>False when there was none of that name.</returns>
    public async Task<bool> UnregisterAsync(string name, bool freeSharedPool = false, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(name);
        cancellationToken.ThrowIfCancellationRequested();
        HeldEntry? entry;
        lock (_lock)
        {
            if (!_records.TryGetValue(name, out CheckpointRecord? record) || !record.IsVisible)
            {
                return false;
            }
            entry = record.Held;
            if (record.IsReserved)
            {
                record.SetHeld(null);           // what is on its way keeps its name
                record.SetRemote(null);
            }
            else
            {
                _records.Remove(name);
            }
        }
        TellChange();
        if (entry is not null)
        {
            entry.FreesPool = freeSharedPool;
            await FreeAsync(entry).ConfigureAwait(false);      // not cancellable: half a checkpoint is no state
            EngineMetrics.Changed(CheckpointChange.Unregistered);
            LogUnregistered(name);
            _audit.Unregistered(name, entry.Generation);
        }
        return true;
    }

    private static void CheckName(string name)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        if (System.Text.Encoding.UTF8.GetByteCount(name) > 255)
        {
            throw new ArgumentException("a checkpoint's name has at most 255 bytes as UTF-8", nameof(name));
        }
    }

    // A name is taken before the work begins, so that two registrations of it do not both load gigabytes.
    private void Reserve(string name, bool replace = false)
    {
        CheckName(name);
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            CheckpointRecord record = _records.TryGetValue(name, out CheckpointRecord? known) ? known : _records[name] = new CheckpointRecord();
            if ((record.Held is not null && !replace) || record.IsReserved)
            {
                ThrowHelper.Throw(CheckpointError.AlreadyExists, $"checkpoint '{name}' is held here already, or on its way; unregister it first, replace it, or take another name");
            }
            record.IsReserved = true;
        }
    }

    private void Unreserve(string name)
    {
        lock (_lock)
        {
            if (_records.TryGetValue(name, out CheckpointRecord? record))
            {
                record.IsReserved = false;
                if (!record.IsVisible)
                {
                    _records.Remove(name);
                }
            }
        }
    }

    private CheckpointRecord FindHeld(string name)
        => _records.TryGetValue(name, out CheckpointRecord? record) && record.Held is not null
            ? record
            : ThrowHelper.Throw<CheckpointRecord>(CheckpointError.NotFound, $"checkpoint '{name}' is not held here");

    private HeldEntry MakeEntry(HeldCheckpoint held, CheckpointDigests? digests, MemoryPool? pool)
        => new(held, digests ?? (Options.Digest == DigestAlgorithm.None ? null : new CheckpointDigests(held.Tensors, Options.Digest)), pool);

    // Its ranges are registered; from here on it is visible.
    private void Publish(HeldEntry entry, string source, bool replace)
    {
        string name = entry.Checkpoint.Name;
        HeldEntry? replaced;
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            CheckpointRecord record = _records.TryGetValue(name, out CheckpointRecord? known) ? known : _records[name] = new CheckpointRecord();
            replaced = record.Held;
            if (replaced is not null && !replace)
            {
                ThrowHelper.Throw(CheckpointError.AlreadyExists, $"checkpoint '{name}' is held here already");
            }
            record.IsReserved = false;
            if (_engine is not null)
            {
                entry.StartHashing();       // before anybody can take it away
            }
            record.SetHeld(entry);
            if (replaced is not null)
            {
                Task retired = RetireAsync(replaced);
                _retiring.Add(retired);
                _ = retired.ContinueWith(task =>
                {
                    lock (_lock)
                    {
                        _retiring.Remove(task);
                    }
                }, CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default);
            }
        }
        TellChange();
        _audit.Registered(name, entry.Generation, entry.Checkpoint.Tensors.Count, entry.Checkpoint.DataBytes, source);
        EngineMetrics.Changed(replaced is null ? CheckpointChange.Registered : CheckpointChange.Replaced);
        if (replaced is not null)
        {
            LogReplaced(name, replaced.Generation, entry.Generation);
            _audit.Superseded(name, replaced.Generation, entry.Generation);
        }
    }

    private async Task RetireAsync(HeldEntry replaced)
    {
        await Task.Yield();                 // away from the lock
        await FreeAsync(replaced).ConfigureAwait(false);
    }

    private async Task PublishAsync(HeldCheckpoint held, CheckpointDigests? digests, string source, MemoryPool? pool = null, bool replace = false, JoinRelay? relay = null)
    {
        HeldEntry entry = MakeEntry(held, digests, pool);
        entry.Relay = relay;
        try
        {
            if (_engine is not null)
            {
                entry.Register(_registry);
            }
            Publish(entry, source, replace);
        }
        catch
        {
            await FreeAsync(entry).ConfigureAwait(false);
            throw;
        }
    }

    // Those with a lease are waited for; those without one nobody knows of.
    private async Task LetReadersEndAsync(HeldEntry entry)
    {
        entry.Swarms.Close();
        Task grace = Options.GraceTime > TimeSpan.Zero && entry.Ranges.Count != 0 ? Task.Delay(Options.GraceTime) : Task.CompletedTask;
        await entry.Uses.CloseAsync(Options.DrainTimeout).ConfigureAwait(false);
        await grace.ConfigureAwait(false);
    }

    private async Task FreeAsync(HeldEntry entry)
    {
        await entry.Changing.ConfigureAwait(false);
        await LetReadersEndAsync(entry).ConfigureAwait(false);
        if (_engine is not null)
        {
            await _engine.UnregisterAsync(entry.Ranges, range => _localPeers?.CutHoldersOf(range)).ConfigureAwait(false);
        }
        foreach (HeldBuffer buffer in entry.Checkpoint.Buffers)
        {
            _registry.AbandonFilling(buffer.Memory);        // where the registration of another failed
        }
        await entry.DisposeAsync().ConfigureAwait(false);
    }

    [LoggerMessage(EventId = 1011, Level = LogLevel.Information, Message = "registered '{Checkpoint}': {Tensors} tensors, {Bytes} bytes")]
    private partial void LogRegistered(string checkpoint, int tensors, long bytes);

    [LoggerMessage(EventId = 1012, Level = LogLevel.Warning, Message = "'{Checkpoint}' is copied into anonymous memory: where it is it cannot be registered: {Reason}")]
    private partial void LogCopied(string checkpoint, string reason);

    [LoggerMessage(EventId = 1013, Level = LogLevel.Warning, Message = "consume '{Checkpoint}': {Remark}")]
    private partial void LogNotConsumed(string checkpoint, string remark);

    [LoggerMessage(EventId = 1014, Level = LogLevel.Information, Message = "'{Checkpoint}': generation {Old} is superseded by generation {New}")]
    private partial void LogReplaced(string checkpoint, long old, long @new);

    [LoggerMessage(EventId = 1015, Level = LogLevel.Information, Message = "updated '{Checkpoint}'")]
    private partial void LogUpdated(string checkpoint);

    [LoggerMessage(EventId = 1016, Level = LogLevel.Information, Message = "unregistered '{Checkpoint}'")]
    private partial void LogUnregistered(string checkpoint);
}
