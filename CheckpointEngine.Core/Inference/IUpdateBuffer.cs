using CheckpointEngine.Metas.Pickle;

namespace CheckpointEngine.Inference;

/// <summary>Memory that workers map: two halves of equal length, the second right behind the first.</summary>
/// <remarks>One thread at a time but for <see cref="Synchronize"/>. Dispose waits for copies under way; workers that have mapped it keep what they have. Again it does nothing.</remarks>
internal interface IUpdateBuffer : IDisposable
{
    /// <summary>Bytes of one half.</summary>
    long HalfBytes { get; }

    /// <summary>Emits what a worker makes the buffer of: the tuple of a function and its arguments.</summary>
    void WriteHandle(PickleWriter pickle);

    /// <summary>Told, before the first copy, of all memory that copies will read: it is there from now until the buffer is disposed.</summary>
    /// <param name="runs">In the order of the copies.</param>
    void Expect(IReadOnlyList<(nint Start, long Bytes)> runs)
    {
    }

    /// <summary>Starts copying into a half, of which nobody reads meanwhile; returns at once. A copy into the other half may be under way: this one follows it.</summary>
    /// <param name="half">0 or 1.</param>
    /// <param name="pieces">Offsets ascend. Valid until <see cref="Synchronize"/> returns.</param>
    void BeginCopy(int half, ReadOnlyMemory<UpdatePiece> pieces);

    /// <summary>Waits until what was started into a half is in its place and visible to workers. Another thread than that which starts copies may call it.</summary>
    /// <returns>Seconds that the copy took, from its start or from the end of the one before it.</returns>
    /// <exception cref="CheckpointEngineException">It could not be copied.</exception>
    double Synchronize(int half);

    /// <summary>Gives the memory back, beside what the caller does next where that takes long; nothing is copied any more. Dispose waits for its end.</summary>
    void BeginDispose() => Dispose();
}

/// <summary>A tensor's way into a half.</summary>
/// <param name="source">Address in this process.</param>
/// <param name="offset">Bytes from the half's start.</param>
/// <param name="bytes">Its length.</param>
internal readonly struct UpdatePiece(nint source, long offset, long bytes)
{
    internal readonly nint Source = source;
    internal readonly long Offset = offset;
    internal readonly long Bytes = bytes;
}
