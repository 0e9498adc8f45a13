namespace CheckpointEngine.Checkpoints;

/// <summary>How files become memory.</summary>
public enum HoldMode
{
    /// <summary>Mapped shared where they are: no copy, no time; the files must stay as they are.</summary>
    Map,

    /// <summary>Copied into memfds, which processes of this host can attach.</summary>
    Memfd,

    /// <summary>Copied into memory of this process, in huge pages.</summary>
    Anonymous,
}
