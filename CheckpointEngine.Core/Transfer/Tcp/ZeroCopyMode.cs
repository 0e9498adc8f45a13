namespace CheckpointEngine.Transfer.Tcp;

/// <summary>When memory is sent without the kernel's copy of it (MSG_ZEROCOPY).</summary>
internal enum ZeroCopyMode
{
    /// <summary>To other hosts, until the kernel says of a connection that it had to copy after all.</summary>
    Auto,

    /// <summary>Wherever the kernel takes it, for tests.</summary>
    Always,
}
