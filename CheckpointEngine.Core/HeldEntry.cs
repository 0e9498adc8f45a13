using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;

namespace CheckpointEngine;

/// <summary>A checkpoint that a server holds: its memory, the ranges that are registered for it, its digests.</summary>
internal sealed class HeldEntry : IAsyncDisposable
{
    private readonly CancellationTokenSource _stop = new();
    private Task _hashing = Task.CompletedTask;

    internal HeldEntry(HeldCheckpoint checkpoint, CheckpointDigests? digests)
    {
        Checkpoint = checkpoint;
        Digests = digests;
        HasDigestsAtPublication = digests is { IsComplete: true };
    }

    internal HeldCheckpoint Checkpoint { get; }

    internal CheckpointDigests? Digests { get; }

    /// <summary>Whether the roots go into the metas: what the metas say must not change while they are published.</summary>
    internal bool HasDigestsAtPublication { get; }

    /// <summary>The ranges that peers may read, one for each buffer that is not empty.</summary>
    internal List<RegisteredRange> Ranges { get; } = [];

    /// <summary>Makes every range readable, or none.</summary>
    internal void Register(MemoryRegistry registry)
    {
        for (int buffer = 0; buffer < Checkpoint.Buffers.Length; buffer++)
        {
            HeldBuffer held = Checkpoint.Buffers[buffer];
            if (held.SizeBytes != 0)
            {
                Ranges.Add(registry.Register(held.Memory, (ulong)held.Address, (ulong)held.SizeBytes, new HeldBufferReference(this, buffer)));
            }
        }
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
        var thread = new Thread(() =>
        {
            try
            {
                Digests.HashAll(Checkpoint, stop);
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
        { IsBackground = true, Name = "checkpoint-engine digests", Priority = ThreadPriority.BelowNormal };
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

    /// <summary>Finds the tensor that starts at <paramref name="address"/> with <paramref name="lengthBytes"/>, in one buffer; -1 when there is none.</summary>
    internal int FindTensor(int buffer, ulong address, ulong lengthBytes)
    {
        HeldBuffer held = Checkpoint.Buffers[buffer];
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
        await _stop.CancelAsync().ConfigureAwait(false);
        await _hashing.ConfigureAwait(false);
        Checkpoint.Dispose();
        _stop.Dispose();
    }
}

/// <summary>Which buffer of which checkpoint a registered range is.</summary>
internal sealed record HeldBufferReference(HeldEntry Entry, int Buffer);
