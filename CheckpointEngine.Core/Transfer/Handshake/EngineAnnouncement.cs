namespace CheckpointEngine.Transfer.Handshake;

/// <summary>The member <c>checkpoint_engine</c> of a segment descriptor: what one of our processes tells another; others skip it.</summary>
/// <remarks>Immutable by convention: nobody writes to the arrays. All of it is a claim of the peer, to be checked by who uses it.</remarks>
internal sealed record EngineAnnouncement
{
    /// <summary>The newest version of this member that is written here.</summary>
    internal const int CurrentProtocol = 1;

    /// <summary>Version of the peer service's protocol.</summary>
    internal int Protocol { get; init; } = CurrentProtocol;

    /// <summary><c>host:port</c> of the peer service, empty when there is none.</summary>
    internal string Peer { get; init; } = "";

    /// <summary>Whether the peer service speaks TLS over TCP.</summary>
    internal bool PeerTls { get; init; }

    /// <summary>Whether the data port speaks TLS and nothing else.</summary>
    internal bool DataTls { get; init; }

    /// <summary>The boot id of the owner's host; two processes with the same one can try the local transport.</summary>
    internal string HostId { get; init; } = "";

    /// <summary>Where the peer service is for processes of the owner's host: a path, or <c>@name</c>; empty when there is none.</summary>
    internal string LocalSocket { get; init; } = "";

    /// <summary>Names of the transports that the owner serves, whatever the descriptor's protocol says.</summary>
    internal string[] Transports { get; init; } = [];

    /// <summary>The names of the RDMA devices in the order of the rails; empty when the descriptor's devices are in that order.</summary>
    internal string[] Rails { get; init; } = [];

    /// <summary>Whether the owner serves only peers that prove to know the token.</summary>
    internal bool TokenRequired { get; init; }

    /// <summary>The owner's engine version, informative.</summary>
    internal string Version { get; init; } = "";
}
