namespace CheckpointEngine.Transfer;

/// <summary>One read of a peer's memory.</summary>
/// <param name="RemoteAddress">Virtual address in the peer's process.</param>
/// <param name="Destination">Where the bytes go in ours; it stays valid until the read is completed or the lane disposed.</param>
/// <param name="LengthBytes">Bytes, at least 1.</param>
/// <param name="Tag">The caller's own.</param>
internal readonly record struct ReadRequest(ulong RemoteAddress, nint Destination, int LengthBytes, int Tag);

/// <summary>How a read ended.</summary>
internal enum ReadStatus
{
    /// <summary>All bytes are there.</summary>
    Done = 0,

    /// <summary>The peer does not serve that range.</summary>
    Refused,

    /// <summary>The connection broke; other reads of the lane are lost too.</summary>
    Broken,

    /// <summary>The peer sent nothing for the stall timeout.</summary>
    Stalled,

    /// <summary>The peer answered what the protocol does not know.</summary>
    Garbled,

    /// <summary>The lane was aborted from this side.</summary>
    Aborted,
}

/// <summary>A read that has ended.</summary>
/// <param name="Tag">The request's.</param>
/// <param name="Status">How.</param>
/// <param name="Source">Where the bytes are, readable until the lane is disposed, when the destination was not touched; 0 when they are in the destination.</param>
internal readonly record struct ReadCompletion(int Tag, ReadStatus Status, nint Source = 0);

/// <summary>Told how far a read is, before it has ended.</summary>
internal interface IReadProgress
{
    /// <summary>Called by the thread that waits, while it waits. Lanes that learn of nothing but the end never call it.</summary>
    /// <param name="tag">The read's.</param>
    /// <param name="bytes">Bytes that are in place by now, from the first on.</param>
    void Arrived(int tag, int bytes);
}

/// <summary>
/// A way to read one peer's memory with several reads in flight. The seam between what is read and how bytes move: it knows addresses, lengths
/// and a peer, nothing of checkpoints.
/// </summary>
/// <remarks>One thread at a time submits and waits; <see cref="Abort"/> may come from any. In the steady state nothing is allocated.</remarks>
internal interface IReadLane : IDisposable
{
    /// <summary>The transport, as reports tell it.</summary>
    string TransportName { get; }

    /// <summary>The most reads that may be in flight at this moment; it may rise as the lane learns what its peer can do.</summary>
    int QueueDepth { get; }

    /// <summary>The most bytes that are worth having in flight; one read may be larger.</summary>
    int QueueBytes { get; }

    /// <summary>Whether reads in flight may share a destination: then none is written before those ahead of it that share it have been completed, and the next <see cref="Wait"/> has begun.</summary>
    bool WritesInTurn { get; }

    /// <summary>Opens the way to the peer and proves the token if one is demanded; blocks until that is done, failed or aborted. Once, before anything else.</summary>
    /// <exception cref="CheckpointEngineException">Unreachable, Timeout or Refused.</exception>
    void Connect();

    /// <summary>Makes memory known that reads are to be put into, where the transport wants that ahead.</summary>
    /// <returns>To be disposed before the memory is freed; null when there was nothing to do.</returns>
    /// <exception cref="CheckpointEngineException">It cannot be registered.</exception>
    IDisposable? Prepare(nint memory, long lengthBytes) => null;

    /// <summary>Starts a read. At most <see cref="QueueDepth"/> may be in flight.</summary>
    void Submit(in ReadRequest request);

    /// <summary>Waits until a read has ended, the oldest first or any, as the transport gives them. After a status other than Done and Refused the lane is of no more use.</summary>
    /// <param name="progress">Told of what comes meanwhile; null when nobody wants to know, which lets larger pieces come.</param>
    ReadCompletion Wait(IReadProgress? progress);

    /// <summary>Ends a wait or a connect, now or to come, from any thread: what is in flight completes as Aborted, a connect throws.</summary>
    void Abort();
}
