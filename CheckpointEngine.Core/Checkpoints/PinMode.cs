namespace CheckpointEngine.Checkpoints;

/// <summary>Whether held memory is locked (mlock), so that it is never swapped or dropped.</summary>
public enum PinMode
{
    /// <summary>Where the limit on locked memory allows it; else a warning says what is needed. Pages of mapped files are locked as they are touched.</summary>
    Auto,

    /// <summary>Locked, pages of mapped files read in at once; an error where that is not allowed.</summary>
    Mlock,

    /// <summary>Not locked.</summary>
    None,
}
