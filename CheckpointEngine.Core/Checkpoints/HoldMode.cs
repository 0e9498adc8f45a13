namespace CheckpointEngine.Checkpoints;

/// <summary>How the tensors of files are held in memory.</summary>
public enum HoldMode
{
    /// <summary>The files are mapped where they are; no copy.</summary>
    Map = 0,

    /// <summary>Copied into memfds, which other processes can attach to.</summary>
    Memfd,

    /// <summary>Copied into anonymous memory with huge pages.</summary>
    Anonymous,
}

/// <summary>Whether held memory is locked (mlock(2)).</summary>
public enum PinMode
{
    /// <summary>When the limit allows; a warning when not.</summary>
    Auto = 0,

    /// <summary>Always; an error when the limit forbids.</summary>
    Mlock,

    /// <summary>Never.</summary>
    None,
}
