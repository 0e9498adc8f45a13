using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Join;
using CheckpointEngine.Peers;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Relay;
using CheckpointEngine.Transfer;

namespace CheckpointEngine;

/// <summary>A checkpoint that a server holds: its memory, the ranges that are registered for it, its digests.</summary>
internal sealed class HeldEntry : IAsyncDisposable
{
    private static long s_generations;
    private readonly MemoryPool? _pool;
    private CancellationTokenSource _stop = new();
    private Task _hashing = Task.CompletedTask;

    /// <param name="checkpoint">Owned from here on.</param>
    /// <param name="digests">Its digests, all or some of them there; null: none are made.</param>
    /// <param name="pool">Where its memory goes in the end; null: it is freed.</param>
    internal HeldEntry(HeldCheckpoint checkpoint, CheckpointDigests? digests, MemoryPool? pool)
    {
        _pool = pool;
        Checkpoint = checkpoint;
        Digests = digests;
        HasDigestsAtPublication = digests is { IsComplete: true };
        Swarms = MakeSwarms();
    }

    internal HeldCheckpoint Checkpoint { get; }

    internal CheckpointDigests? Digests { get; private set; }

    /// <summary>Whether the roots go into the metas: what the metas say must not change while they are published.</summary>
    internal bool HasDigestsAtPublication { get; private set; }

    /// <summary>Another number for every registration and update in this process; not 0.</summary>
    internal long Generation { get; private set; } = Interlocked.Increment(ref s_generations);

    /// <summary>Whether the caller is changing its tensors: nobody may read them. Under the lock of the server.</summary>
    internal bool IsUpdating { get; set; }

    /// <summary>The newest begin or end of an update; complete when none is on its way. Under the lock of the server.</summary>
    internal Task Changing { get; set; } = Task.CompletedTask;

    /// <summary>Whether the begin of an update is through: no read is under way. Under the lock of the server.</summary>
    internal bool IsOutOfReach { get; set; }

    /// <summary>Whether its memory, and what the pool has, is freed in the end and not kept.</summary>
    internal bool FreesPool { get; set; }

    /// <summary>Those that need it as it is: peers with a lease, and updates of inference servers from this process.</summary>
    internal UseGate Uses { get; } = new();

    /// <summary>Those that read this generation together.</summary>
    internal SwarmTable Swarms { get; private set; }

    /// <summary>What still offers to others of its swarm what a join has brought; ended before the memory goes.</summary>
    internal JoinRelay? Relay { get; set; }

    /// <summary>The ranges that peers may read: one for each buffer that is not empty, or for those of the caller that overlap.</summary>
    internal List<RegisteredRange> Ranges { get; } = [];

    /// <summary>A lease on what it holds now; null when it is about to be changed or taken away.</summary>
    /// <param name="current">The generation that is held under its name at a moment.</param>
    /// <param name="ended">Called once, when it is released or revoked, with how.</param>
    internal ReadLease? TryLease(Func<long> current, Action<string> ended)
    {
        if (!Uses.TryEnter(out CancellationToken cut))
        {
            return null;
        }
        CancellationTokenRegistration revocation = default;
        ReadLease? lease = null;
        lease = new ReadLease(Generation, current, () =>
        {
            revocation.Unregister();
            Uses.Leave();
            ended(lease!.HowItEnded);
            LiveServers.LeaseEnded();
        });
        LiveServers.LeaseTaken();
        revocation = cut.UnsafeRegister(static state =>
        {
            EngineMetrics.Revoked();
            ((ReadLease)state!).Revoke();
        }, lease);
        return lease;
    }

    /// <summary>Makes every range readable, or none.</summary>
    internal void Register(MemoryRegistry registry)
    {
        var ranges = new List<RegisteredRange>(Checkpoint.Buffers.Length);
        for (int buffer = 0; buffer < Checkpoint.Buffers.Length;)
        {
            HeldBuffer held = Checkpoint.Buffers[buffer];
            int count = 1;
            ulong end = (ulong)held.Address + (ulong)held.SizeBytes;
            while (Checkpoint.IsOfCaller && held.SizeBytes != 0 && buffer + count < Checkpoint.Buffers.Length && Checkpoint.Buffers[buffer + count] is var next && (ulong)next.Address < end)
            {
                end = Math.Max(end, (ulong)next.Address + (ulong)next.SizeBytes);
                count++;
            }
            if (held.SizeBytes != 0)
            {
                ranges.Add(new RegisteredRange(held.Memory, (ulong)held.Address, end - (ulong)held.Address, new HeldBufferReference(this, buffer, count)));
            }
            buffer += count;
        }
        registry.Register(ranges);
        Ranges.AddRange(ranges);
    }

    // A unit begins with a chunk of a tensor.
    private SwarmTable MakeSwarms()
    {
        long chunks = 0;
        for (int tensor = 0; tensor < Checkpoint.Tensors.Count; tensor++)
        {
            chunks += TensorDigest.ChunkCount(Checkpoint.Tensors.GetByteLength(tensor));
        }
        return new SwarmTable((int)Math.Min(chunks, SwarmRequest.MostUnits));
    }

    /// <summary>Stops hashing, since the bytes are about to change; no range may be registered any more.</summary>
    internal async Task StopHashingAsync()
    {
        await _stop.CancelAsync().ConfigureAwait(false);
        await _hashing.ConfigureAwait(false);
    }

    /// <summary>Becomes the next generation, without digests yet.</summary>
    internal void RenewDigests()
    {
        _stop.Dispose();
        _stop = new CancellationTokenSource();
        _hashing = Task.CompletedTask;
        Digests = Digests is null ? null : new CheckpointDigests(Checkpoint.Tensors, Digests.Algorithm);
        HasDigestsAtPublication = false;
        Swarms = MakeSwarms();
        Generation = Interlocked.Increment(ref s_generations);
    }

    /// <summary>Starts making the digests that are still missing, on one thread that yields to whatever else there is to do.</summary>
    internal void StartHashing()
    {
        if (Digests is null || Digests.IsComplete)
        {
            return;
        }
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        CancellationToken stop = _stop.Token;
        CheckpointDigests digests = Digests;
        var thread = new Thread(() =>
        {
            try
            {
                BackgroundThread.StepBack();
                digests.HashAll(Checkpoint, stop);
            }
            catch (Exception failure) when (failure is OperationCanceledException or CheckpointEngineException)
            {
                // Cancelled; or the file shrank, and whoever asks for a digest is told so.
            }
            finally
            {
                done.SetResult();
            }
        })
        { IsBackground = true, Name = "checkpoint-engine digests" };
        try
        {
            thread.Start();
            _hashing = done.Task;
        }
        catch (Exception none) when (none is OutOfMemoryException or ThreadStartException)
        {
            // The host gives no more threads: each digest is made when somebody asks for it.
        }
    }

    /// <summary>Finds the tensor that starts at <paramref name="address"/> with <paramref name="lengthBytes"/>, in some buffers; -1 when there is none.</summary>
    internal int FindTensor(HeldBufferReference buffers, ulong address, ulong lengthBytes)
    {
        for (int buffer = buffers.FirstBuffer; buffer < buffers.FirstBuffer + buffers.Count; buffer++)
        {
            HeldBuffer held = Checkpoint.Buffers[buffer];
            if (address >= (ulong)held.Address && address - (ulong)held.Address < (ulong)held.SizeBytes && FindTensor(held, address, lengthBytes) is >= 0 and int found)
            {
                return found;
            }
        }
        return -1;
    }

    private int FindTensor(in HeldBuffer held, ulong address, ulong lengthBytes)
    {
        long offset = (long)(address - (ulong)held.Address);
        int low = held.FirstTensor;
        int high = held.FirstTensor + held.TensorCount;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (Checkpoint.Tensors.GetOffset(middle) < offset)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }
        // Empty tensors share an offset with the one behind them.
        for (; low < held.FirstTensor + held.TensorCount && Checkpoint.Tensors.GetOffset(low) == offset; low++)
        {
            if ((ulong)Checkpoint.Tensors.GetByteLength(low) == lengthBytes)
            {
                return low;
            }
        }
        return -1;
    }

    /// <summary>Frees the memory; no range may be registered any more.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Relay is not null)
        {
            await Relay.DisposeAsync().ConfigureAwait(false);
        }
        await _stop.CancelAsync().ConfigureAwait(false);
        await _hashing.ConfigureAwait(false);
        if (FreesPool)
        {
            _pool?.Trim();
        }
        else
        {
            _pool?.Keep(Checkpoint.TakeMemory());
        }
        Checkpoint.Dispose();
        _stop.Dispose();
        Uses.Dispose();
    }
}

/// <summary>Which buffers of which checkpoint lie in a registered range: one, or several of the caller that overlap.</summary>
internal sealed record HeldBufferReference(HeldEntry Entry, int FirstBuffer, int Count);
