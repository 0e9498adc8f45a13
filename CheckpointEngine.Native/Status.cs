namespace CheckpointEngine.Native;

/// <summary>A ce_status of checkpoint_engine.h.</summary>
internal enum Status
{
    Ok = 0,
    Argument = -1,
    Handle = -2,
    State = -3,
    BufferTooSmall = -4,
    Pending = -5,
    Cancelled = -6,
    Callback = -7,
    Forked = -8,
    Internal = -9,

    // Below this the numbers of CheckpointError follow, counted downwards.
    Work = -100,
}

/// <summary>Ends a call with a status of its own.</summary>
internal sealed class CallException(Status status, string message) : Exception(message)
{
    internal Status Status => status;
}
