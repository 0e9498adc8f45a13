using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine;

/// <summary>How a <see cref="ParameterServer"/> holds, announces and guards its checkpoints.</summary>
public sealed class ParameterServerOptions
{
    /// <summary>IP address to bind and announce; peers must reach it. Default: 127.0.0.1, or the address of the route to the owners for a server made by a join.</summary>
    public System.Net.IPAddress Address { get; set; } = System.Net.IPAddress.Loopback;

    /// <summary>Port of the handshake listener; 0 (the default) takes any free one.</summary>
    public int Port { get; set; }

    /// <summary>This owner's rank in the world; default 0.</summary>
    public int Rank { get; set; }

    /// <summary>Which transports are offered and used.</summary>
    public TransportChoice Transport { get; set; }

    /// <summary>Which RDMA devices are used: a list as <c>PS_P2P_STORE_RDMA_DEVICES</c> has it; null (the default) for that variable, then <c>NCCL_IB_HCA</c>, then all.</summary>
    public string? RdmaDevices { get; set; }

    /// <summary>Mooncake's library for <see cref="TransportChoice.Mooncake"/>: a path, or a name that the loader looks for; null (the default) for what <c>CHECKPOINT_ENGINE_MOONCAKE_LIBRARY</c> says, then <c>libtransfer_engine.so</c>. A process can have one.</summary>
    public string? MooncakeLibrary { get; set; }

    /// <summary>How files are held; default mapped in place.</summary>
    public HoldMode Hold { get; set; } = HoldMode.Map;

    /// <summary>Remove the weight files of a checkpoint once it is held; they must lie in <c>/dev/shm</c>. What is mapped in place stays the holder's alone. Default false: nothing is removed.</summary>
    public bool Consume { get; set; }

    /// <summary>
    /// Keep the memory of the checkpoint that was unregistered last for the next one (upstream's <c>use_shared_memory_pool</c>): a new version of the same
    /// layout is copied into memory that is touched and locked already. Files are then copied into anonymous memory, whatever <see cref="Hold"/> says. Default false. A registration may
    /// say otherwise (<see cref="RegistrationOptions.SharedPool"/>).
    /// </summary>
    public bool SharedPool { get; set; }

    /// <summary>Whether held memory is locked; default when the limit allows.</summary>
    public PinMode Pin { get; set; } = PinMode.Auto;

    /// <summary>How held tensors are summed; default XXH3-128.</summary>
    public DigestAlgorithm Digest { get; set; } = DigestAlgorithm.Xxh3;

    /// <summary>The token that the peer service and our TCP lanes demand; null (the default) demands none.</summary>
    public AccessToken? Token { get; set; }

    /// <summary>
    /// The certificate with which the peer service speaks TLS 1.3 over TCP, and whose clients' certificates it demands beside the token; null (the default) for none.
    /// The token is then proved within TLS. Joiners need <see cref="ClientTls"/>, and a version that knows of it. What the data lanes carry is not encrypted but with <see cref="EncryptData"/>.
    /// </summary>
    public TlsServerOptions? PeerTls { get; set; }

    /// <summary>
    /// Let weights leave this host within TLS 1.3 alone: the data port speaks it and nothing else, with the certificates of <see cref="PeerTls"/>, which it needs. Plain Mooncake peers are
    /// refused then, and nothing is offered over RDMA. Default false.
    /// </summary>
    public bool EncryptData { get; set; }

    /// <summary>How joins meet owners that speak TLS, on the peer service and on data lanes; default: by the system's authorities.</summary>
    public TlsClientOptions ClientTls { get; set; } = new();

    /// <summary>Who may read without our handshake. Default: everybody when no token is set, nobody when one is.</summary>
    public PlainPeers? PlainPeers { get; set; }

    /// <summary>
    /// Let nobody read over the network without a lease, which keeps what it is for from being freed or changed. Plain Mooncake peers know none, so none of them
    /// may read, and RDMA knows none yet. Default false.
    /// </summary>
    public bool RequireLease { get; set; }

    /// <summary>How long what is taken away or changed stays readable where it is, for readers that have no lease; default none. <see cref="DrainTimeout"/> is for those that have one.</summary>
    public TimeSpan GraceTime { get; set; }

    internal PlainPeers AllowedPlainPeers => RequireLease || EncryptData ? PlainPeers.None : PlainPeers ?? (Token is null ? PlainPeers.All : PlainPeers.None);

    /// <summary>Where processes of this host ask for the memory itself: a path, which pods can share, or <c>@name</c>; null (the default) takes a name of its own without a file.</summary>
    public string? LocalSocket { get; set; }

    /// <summary>Whether <paramref name="name"/> can be a <see cref="LocalSocket"/>.</summary>
    public static bool IsLocalSocket(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        return LocalSocketName.IsValid(name);
    }

    /// <summary>Which users of this host may have the memory itself, and may be taken memory from, when no token is set; default the own one and root.</summary>
    public LocalPeers LocalPeers { get; set; } = LocalPeers.Own;

    /// <summary>Offer mapped files for attaching even if others than this user may write them.</summary>
    public bool AttachFiles { get; set; }

    /// <summary>
    /// How long what takes memory away or changes it (<see cref="ParameterServer.UnregisterAsync(string, CancellationToken)"/>, <see cref="ParameterServer.BeginUpdateAsync"/>, <see cref="ParameterServer.DisposeAsync"/>)
    /// waits for joins that have a lease on it, and then for reads that are under way, before it revokes and cuts them; default 30 s.
    /// </summary>
    public TimeSpan DrainTimeout { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>Tell in metrics what each peer was sent over TCP, by its address: the first 64 of them, all others together. Default false: addresses stay out of metrics.</summary>
    public bool MeasurePeers { get; set; }

    /// <summary>What others may have at a time: connections, requests, leases.</summary>
    public ServerLimits Limits { get; set; } = new();

    /// <summary>Where the server logs; default nowhere. Who registered, read and was refused is told in the category <see cref="AuditLog.Category"/>.</summary>
    public ILoggerFactory LoggerFactory { get; set; } = NullLoggerFactory.Instance;
}
