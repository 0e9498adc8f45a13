namespace CheckpointEngine.Inference;

/// <summary>Which checkpoint-engine wheel the server's workers have: nothing on the wire tells.</summary>
public enum WorkerProtocol
{
    /// <summary>0.4 and later: two closing messages, the buffer is let go between them. Older workers are noticed and end well, too.</summary>
    V04,

    /// <summary>0.2 and 0.3: one closing message.</summary>
    V02,

    /// <summary>0.1: one closing message, and errors are told by the server's answer alone.</summary>
    V01,
}
