using System.CommandLine;
using System.CommandLine.Parsing;
using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Cli.Options;

/// <summary>How a parameter server holds its bytes and where others read them.</summary>
internal sealed class HoldingOptions
{
    private readonly Option<string> _address = new("--address")
    {
        Description = "IP address that others read from; default: --listen's, or this host's own when that one is 'any'",
        HelpName = "IP",
    };

    private readonly Option<int> _port = OptionRules.Integer("--port", "N", "Port that others read from; default: any free one", 0, 65535);

    private readonly Option<string> _transport = OptionRules.Word("--transport", "Way of the bytes: the best both ends have (auto, default), or just this one; local is the memory of this host, rdma needs libibverbs, mooncake needs Mooncake's library", "auto", "local", "rdma", "tcp", "mooncake");

    private readonly Option<string> _devices = CreateDevices();

    private readonly Option<string> _mooncakeLibrary = new("--mooncake-library")
    {
        Description = "Mooncake's library for --transport mooncake; default: CHECKPOINT_ENGINE_MOONCAKE_LIBRARY, else libtransfer_engine.so where the loader finds it",
        HelpName = "PATH",
    };

    private readonly Option<bool> _encrypt = new("--encrypt")
    {
        Description = "Let weights cross the network within TLS 1.3 alone: a joiner reads from no holder that does not encrypt; what is served needs --tls-cert, implies --tls-peers, and is neither for plain peers nor over RDMA",
    };

    private readonly Option<bool> _attachFiles = new("--attach-files") { Description = "Attach, or let attach, to files that others than their owner may write" };

    private readonly Option<int> _rank = OptionRules.Integer("--rank", "R", "This holder's rank in the world; default 0", 0);

    private readonly Option<string> _hold = OptionRules.Word("--hold",
        "map: files mapped where they are, no copy (default); memfd: copied into memory others can attach to; anon: copied into huge pages", "map", "memfd", "anon");

    private readonly Option<bool> _consume = new("--consume") { Description = "Remove the weight files, which lie in /dev/shm, once they are held: their memory then goes with this process" };

    private readonly Option<bool> _sharedPool = new("--shared-pool")
    {
        Description = "Keep the memory of a checkpoint that is taken away for the next one of its layout; implies --hold anon",
    };

    private readonly Option<string> _pin = OptionRules.Word("--pin", "Lock the memory: when the limit allows (auto, default), always, or never", "auto", "mlock", "none");

    private readonly Option<string> _digest = OptionRules.Word("--digest",
        "What joiners check against: xxh3 catches faults (default), sha256 malice too, none nothing", "xxh3", "sha256", "none");

    private readonly Option<string> _plainPeers = new("--plain-peers")
    {
        Description = "Who may read without our handshake, as plain Mooncake peers do: none, all, or networks; default all without a token, none with one",
        HelpName = "none|all|CIDR,…",
    };

    private readonly Option<bool> _requireLease = new("--require-lease") { Description = "Let nobody read over the network without a lease: plain Mooncake peers, and RDMA, are refused" };

    private readonly Option<TimeSpan?> _graceTime = OptionRules.Seconds("--grace-time",
        "How long what is taken away stays readable where it is, for plain Mooncake peers, which have no lease; default 0", zeroAllowed: true);

    private readonly Option<bool> _measurePeers = new("--measure-peers") { Description = "Tell in metrics what each peer was sent over TCP, by its address: the first 64, all others together" };

    private readonly Option<TimeSpan?> _drainTimeout = OptionRules.Seconds("--drain-timeout",
        "How long joins under way are waited for before what they read is taken away, replaced or freed at the end; default 30", zeroAllowed: true);

    private readonly Option<string> _localSocket = new("--local-socket")
    {
        Description = "Where processes of this host ask for the memory itself: a path, which pods can share, or @name; default: a name of its own",
        HelpName = "PATH|@NAME",
    };

    private readonly Option<string> _localPeers = new("--local-peers")
    {
        Description = "Users of this host who may have the memory itself, or be taken it from, without a token: own (and root; default), all, or numbers",
        HelpName = "own|all|UID,…",
    };

    public HoldingOptions(Command command)
    {
        TransportGroup = new OptionGroup("Transfer", [_transport, _devices, _mooncakeLibrary, _attachFiles, _localPeers]);
        NetworkGroup = TransportGroup with { Options = [_encrypt, .. TransportGroup.Options] };
        ServingGroup = new OptionGroup("Holding", [_address, _port, _rank, _hold, _pin, _digest, _plainPeers, _localSocket, _drainTimeout, _graceTime, _requireLease, _measurePeers]);
        FilesGroup = new OptionGroup("Files", [_consume, _sharedPool]);
        command.Validators.Add(result =>
        {
            if (result.GetValue(_address) is { } address && (!IPAddress.TryParse(address, out IPAddress? parsed) || IsAny(parsed)))
            {
                result.AddError($"--address: '{address}' is not an IP address that others could reach");
            }
            if (result.GetValue(_sharedPool) && result.GetValue(_hold) is "map" or "memfd" && result.IsGiven(_hold))
            {
                result.AddError("--shared-pool keeps anonymous memory: leave --hold out, or say --hold anon");
            }
            if (result.GetValue(_requireLease) && (result.IsGiven(_plainPeers) || result.IsGiven(_graceTime)))
            {
                result.AddError("--require-lease refuses those that --plain-peers and --grace-time are for");
            }
            if (result.GetValue(_encrypt) && result.GetValue(_transport) is "rdma" or "mooncake" && result.IsGiven(_transport))
            {
                result.AddError($"--encrypt is for tcp (and what does not leave the host), not for --transport {result.GetValue(_transport)}");
            }
            if (result.GetValue(_encrypt) && result.GetValue(_plainPeers) is not (null or "none"))
            {
                result.AddError("--encrypt refuses those that --plain-peers lists: they speak no TLS");
            }
            if (result.GetValue(_localSocket) is { } socket && !ParameterServerOptions.IsLocalSocket(socket))
            {
                result.AddError($"--local-socket: '{socket}' is no absolute path and no @name of at most 107 bytes");
            }
            if (result.GetValue(_localPeers) is { } users)
            {
                try
                {
                    LocalPeers.Parse(users);
                }
                catch (FormatException mistake)
                {
                    result.AddError("--local-peers: " + mistake.Message);
                }
            }
            if (result.GetValue(_plainPeers) is { } networks)
            {
                try
                {
                    PlainPeers.Parse(networks);
                }
                catch (FormatException mistake)
                {
                    result.AddError("--plain-peers: " + mistake.Message);
                }
            }
        });
    }

    /// <summary>What every command that moves bytes takes.</summary>
    public OptionGroup TransportGroup { get; }

    /// <summary>What those take of it that read over a network, or are read.</summary>
    public OptionGroup NetworkGroup { get; }

    /// <summary>What only holders of files take, and no joiners.</summary>
    public OptionGroup FilesGroup { get; }

    /// <summary>What only holders take.</summary>
    public OptionGroup ServingGroup { get; }

    public TransportChoice Transport(ParseResult parsed)
        => parsed.GetValue(_transport) switch
        {
            "tcp" => TransportChoice.Tcp,
            "local" => TransportChoice.Local,
            "rdma" => TransportChoice.Rdma,
            "mooncake" => TransportChoice.Mooncake,
            _ => TransportChoice.Auto,
        };

    /// <summary>Whether weights cross the network within TLS alone.</summary>
    public bool Encrypts(SymbolResult result) => result.GetValue(_encrypt);

    /// <inheritdoc cref="Encrypts(SymbolResult)"/>
    public bool Encrypts(ParseResult parsed) => parsed.GetValue(_encrypt);

    public bool AttachFiles(ParseResult parsed) => parsed.GetValue(_attachFiles);

    public bool IsPinGiven(ParseResult parsed) => parsed.IsGiven(_pin);

    /// <summary>The address the user named, or null.</summary>
    public IPAddress? Address(ParseResult parsed) => parsed.GetValue(_address) is { } text ? IPAddress.Parse(text) : null;

    public ParameterServerOptions CreateServerOptions(ParseResult parsed, IPAddress address, AccessToken? token, ILoggerFactory logging, ServerLimits? limits = null) => new()
    {
        Address = address,
        Port = parsed.GetValue(_port),
        Rank = parsed.GetValue(_rank),
        Transport = Transport(parsed),
        RdmaDevices = parsed.GetValue(_devices),
        MooncakeLibrary = parsed.GetValue(_mooncakeLibrary),
        Hold = parsed.GetValue(_hold) switch { "memfd" => HoldMode.Memfd, "anon" => HoldMode.Anonymous, _ => HoldMode.Map },
        Consume = parsed.GetValue(_consume),
        SharedPool = parsed.GetValue(_sharedPool),
        Pin = parsed.GetValue(_pin) switch { "mlock" => PinMode.Mlock, "none" => PinMode.None, _ => PinMode.Auto },
        Digest = parsed.GetValue(_digest) switch { "sha256" => DigestAlgorithm.Sha256, "none" => DigestAlgorithm.None, _ => DigestAlgorithm.Xxh3 },
        Token = token,
        PlainPeers = parsed.GetValue(_plainPeers) is { } networks ? PlainPeers.Parse(networks) : null,
        LocalSocket = parsed.GetValue(_localSocket),
        LocalPeers = parsed.GetValue(_localPeers) is { } users ? LocalPeers.Parse(users) : LocalPeers.Own,
        AttachFiles = AttachFiles(parsed),
        RequireLease = parsed.GetValue(_requireLease),
        GraceTime = parsed.GetValue(_graceTime) ?? TimeSpan.Zero,
        DrainTimeout = parsed.GetValue(_drainTimeout) ?? TimeSpan.FromSeconds(30),
        Limits = limits ?? new ServerLimits(),
        MeasurePeers = parsed.GetValue(_measurePeers),
        LoggerFactory = logging,
    };

    /// <summary><c>--devices</c>, for commands that hold nothing, too.</summary>
    internal static Option<string> CreateDevices() => new("--devices")
    {
        Description = "RDMA devices to use; default: PS_P2P_STORE_RDMA_DEVICES, else NCCL_IB_HCA, else all that are up",
        HelpName = "NAME,…",
    };

    internal static bool IsAny(IPAddress address) => address.Equals(IPAddress.Any) || address.Equals(IPAddress.IPv6Any);
}
