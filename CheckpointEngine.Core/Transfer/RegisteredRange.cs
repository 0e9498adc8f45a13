using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Transfer;

/// <summary>A range of this process's memory that peers may read. Counts the reads that are under way on it.</summary>
/// <remarks>Any number of threads. The memory belongs to <see cref="Buffer"/>; who registered it frees it after it was unregistered.</remarks>
internal sealed class RegisteredRange
{
    private const long Closed = long.MinValue;
    private readonly TaskCompletionSource _drained = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private long _reads;       // reads under way; Closed + reads once closed

    internal RegisteredRange(MemoryBuffer buffer, ulong address, ulong lengthBytes, object? owner)
    {
        ArgumentOutOfRangeException.ThrowIfZero(address);
        ArgumentOutOfRangeException.ThrowIfZero(lengthBytes);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(lengthBytes, ulong.MaxValue - address);
        Buffer = buffer;
        Address = address;
        LengthBytes = lengthBytes;
        Owner = owner;
    }

    internal MemoryBuffer Buffer { get; }

    internal ulong Address { get; }

    internal ulong LengthBytes { get; }

    /// <summary>What the range belongs to; the registry only carries it.</summary>
    internal object? Owner { get; }

    /// <summary>Completes when the range is closed and no read is under way.</summary>
    internal Task Drained => _drained.Task;

    /// <summary>Whether <c>[address, address + length)</c> lies inside, without overflow.</summary>
    internal bool Contains(ulong address, ulong lengthBytes)
        => address >= Address && lengthBytes <= LengthBytes && address - Address <= LengthBytes - lengthBytes;

    internal bool TryBeginRead()
    {
        if (Interlocked.Increment(ref _reads) > 0)
        {
            return true;
        }
        EndRead();
        return false;
    }

    internal void EndRead()
    {
        if (Interlocked.Decrement(ref _reads) == Closed)
        {
            _drained.TrySetResult();
        }
    }

    internal void Close()
    {
        if (Interlocked.Add(ref _reads, Closed) == Closed)
        {
            _drained.TrySetResult();
        }
    }
}
