namespace CheckpointEngine.Inference;

/// <summary>How a wait for workers ended.</summary>
internal enum WorkerWait
{
    /// <summary>Every worker has answered that it is done.</summary>
    Answered,

    /// <summary>At least one has answered with an error; the others have answered, too, or had a moment to.</summary>
    Failed,

    /// <summary>At least one is gone without an answer.</summary>
    Gone,

    /// <summary>At least one has not answered in time.</summary>
    Late,

    /// <summary>The server's own answer came first.</summary>
    ServerEnded,
}
