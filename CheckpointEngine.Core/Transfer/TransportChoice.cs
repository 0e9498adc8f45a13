namespace CheckpointEngine.Transfer;

/// <summary>Which way bytes are to come.</summary>
public enum TransportChoice
{
    /// <summary>The best that both ends have; one that fails to connect falls to the next, logged.</summary>
    Auto = 0,

    /// <summary>TCP, named by the user: no fall-back.</summary>
    Tcp,

    /// <summary>The same host's memory, named by the user: no fall-back.</summary>
    Local,

    /// <summary>RDMA over libibverbs, named by the user: no fall-back.</summary>
    Rdma,

    /// <summary>Mooncake's own library and whatever transport it brings, named by the user: never taken otherwise, no fall-back.</summary>
    Mooncake,
}
