using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Local;
using CheckpointEngine.Transfer.Mooncake;
using CheckpointEngine.Transfer.Rdma;
using CheckpointEngine.Transfer.Tcp;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Join;

/// <summary>What a join knows of one owner: how its memory is read, and the conversation with it if it is one of ours.</summary>
internal sealed class OwnerLink : IDisposable
{
    private static readonly TimeSpan s_connectTimeout = TimeSpan.FromSeconds(5);

    // An owner that registers each tensor apart has a descriptor beyond the 1 MiB that Mooncake takes by default.
    private const int MaxDescriptorBytes = 128 << 20;

    // An answer over rdma is for an asker that says it speaks it.
    private static readonly byte[] s_asksForRdma = "{\"protocol\":\"rdma\"}\n"u8.ToArray();

    private TcpLaneTarget? _target;      // null: the owner's data port is none that we speak to
    private readonly SegmentDescriptor _descriptor;
    private readonly EndpointName _opened;
    private readonly string _localSocket;
    private readonly TlsClientOptions? _tls;        // null: its peer service speaks none
    private readonly string? _whyNoRdma;            // whatever it offers
    private readonly bool _mayFallBack;
    private readonly TimeSpan _stallTimeout;
    private string? _localReason;
    private string? _rdmaReason;

    private OwnerLink(MetasOwner owner, TcpLaneTarget? target, PeerClient? peer, SegmentDescriptor descriptor, EndpointName opened, TransportChoice choice, TimeSpan stallTimeout, TlsClientOptions? tls)
    {
        _tls = tls;
        _whyNoRdma = target?.Tls is null ? null : "it encrypts what it sends, which RDMA cannot";
        _stallTimeout = stallTimeout;
        _localSocket = descriptor.Engine?.LocalSocket ?? "";
        _descriptor = descriptor;
        _opened = opened;
        _mayFallBack = choice == TransportChoice.Auto;
        Owner = owner;
        _target = target;
        Peer = peer;
    }

    /// <summary>The rank of what is no owner but a joiner that offers what it has.</summary>
    internal const int RelayRank = -1;

    internal MetasOwner Owner { get; }

    /// <summary>The conversation; null with a plain Mooncake peer.</summary>
    internal PeerClient? Peer { get; }

    /// <summary>Whether its bytes cross the network within TLS alone.</summary>
    internal bool IsEncrypted => _target?.Tls is not null;

    /// <summary>The digest that the owner gives for its tensors.</summary>
    internal DigestAlgorithm Digest => Peer?.Digest ?? DigestAlgorithm.None;

    /// <summary>The lease on what the owner holds; null with a plain Mooncake peer, and before <see cref="BeginAsync"/>.</summary>
    internal OwnerLease? Lease { get; private set; }

    /// <summary>The generation that is read; 0 for a plain owner.</summary>
    internal long Generation => Lease?.Generation ?? 0;

    /// <summary>Takes a lease on what the metas tell of, before anything is read.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Superseded"/>: the owner holds another generation. <see cref="CheckpointError.Refused"/>: nothing there.</exception>
    internal async Task BeginAsync(ulong address, CancellationToken cancellationToken)
    {
        if (Peer is not null)
        {
            Lease = await OwnerLease.TakeAsync(Peer, Owner, Name, address, cancellationToken).ConfigureAwait(false);
            if (Lease.LaneKey is byte[] key && _target is { IsOurs: true })
            {
                _target = _target with { Token = AccessToken.FromKey(key) };
            }
        }
    }

    /// <summary>Gives the lease back when everything is read.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Superseded"/>: it was revoked, so what was read may be of two generations.</exception>
    internal Task EndAsync(CancellationToken cancellationToken) => Lease?.ReleaseAsync(cancellationToken) ?? Task.CompletedTask;

    /// <summary>The owner, for messages.</summary>
    internal string Name => NameOf(Owner);

    private static string NameOf(MetasOwner owner) => owner.Rank == RelayRank ? $"relay at {owner.P2pStoreAddress}" : $"rank {owner.Rank} at {owner.P2pStoreAddress}";

    /// <summary>Whether the owner runs on this host.</summary>
    internal bool IsSameHost => Peer is not null
        ? HostIdentity.BootId.Length != 0 && Peer.Server.HostId == HostIdentity.BootId
        : _target is not null && Array.TrueForAll(_target.EndPoints, endPoint => IPAddress.IsLoopback(endPoint.Address));

    /// <summary>The owner's memory as this process reaches it; null when it is read over the network.</summary>
    internal LocalMemory? Local { get; private set; }

    /// <summary>How it is read over RDMA; null when it is not.</summary>
    internal RdmaOwner? Rdma { get; private set; }

    /// <summary>How it is read through Mooncake's library; null when it is not.</summary>
    internal MooncakeOwner? Mooncake { get; private set; }

    /// <summary>Whether the owner's memory itself becomes the destination.</summary>
    internal bool IsAttached { get; private set; }

    /// <summary>Which plane its bytes come over, and why not over a better one.</summary>
    internal OwnerPlane Plane => new(Owner.Rank, Owner.P2pStoreAddress ?? "", PlaneName, IsAttached, Reason) { Encrypted = IsEncrypted && PlaneName == SegmentDescriptor.TcpProtocol };

    private string PlaneName
        => Mooncake is not null ? MooncakeReadLane.Name : Local is { Failure: null } ? LocalReadLane.Name : Rdma is { Failure: null } ? RdmaReadLane.Name : SegmentDescriptor.TcpProtocol;

    private string? Reason
    {
        get
        {
            if (Mooncake is not null)
            {
                return $"mooncake was asked for, whose library reads over {Mooncake.Engine.Protocol}";
            }
            string? local = Local is null ? _localReason : Local.Failure ?? _localReason;
            string? rdma = Local is { Failure: null } ? null : Rdma?.Failure ?? _rdmaReason;
            return rdma is null ? local : local is null ? $"not rdma: {rdma}" : $"not local: {local}; not rdma: {rdma}";
        }
    }

    /// <summary>Takes the local plane, if the owner offers it and it can be had.</summary>
    /// <param name="runs">What is to be read: address and length in the owner's process.</param>
    /// <param name="choice">Auto: what cannot be had is noted. Local: it is an error. Tcp: it is not tried.</param>
    /// <param name="attach">Make the owner's memory itself the destination, if it may be.</param>
    /// <param name="attachFiles">Attach to files that others may write, too.</param>
    /// <param name="token">The token, if one is demanded.</param>
    /// <param name="localPeers">Whose memory is taken when no token proves who it is.</param>
    /// <param name="stallTimeout">For each answer.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException">The plane was named by the user and cannot be had.</exception>
    internal async Task OpenLocalAsync(IEnumerable<(ulong Address, ulong LengthBytes)> runs, TransportChoice choice, bool attach, bool attachFiles,
        AccessToken? token, LocalPeers localPeers, TimeSpan stallTimeout, CancellationToken cancellationToken)
    {
        if (choice is not (TransportChoice.Auto or TransportChoice.Local))
        {
            _localReason = choice == TransportChoice.Tcp ? "tcp was asked for" : null;
            return;
        }
        try
        {
            if (!IsSameHost)
            {
                ThrowHelper.Throw(CheckpointError.NotSupported, "it runs on another host");
            }
            if (!LocalSocketName.IsValid(_localSocket))
            {
                ThrowHelper.Throw(CheckpointError.NotSupported, Peer is null ? "it is no CheckpointEngine" : "it offers no local plane (it was started with --transport tcp, rdma or mooncake, or is older)");
            }
            PeerClient peer = await PeerClient.ConnectLocallyAsync(_localSocket, token, stallTimeout, cancellationToken).ConfigureAwait(false);
            LocalMemory memory;
            try
            {
                ThrowIfStranger(peer, localPeers);
                memory = await LocalMemory.OpenAsync(peer, runs, attachFiles, cancellationToken).ConfigureAwait(false);
            }
            catch
            {
                peer.Dispose();
                throw;
            }
            try
            {
                IsAttached = attach && memory.NoAttachReason is null;
                _localReason = IsAttached ? null : attach ? "copied, not attached: " + memory.NoAttachReason : null;
                memory.Map(IsAttached);
            }
            catch
            {
                memory.Dispose();
                throw;
            }
            Local = memory;
        }
        catch (CheckpointEngineException reason)
        {
            IsAttached = false;
            if (choice == TransportChoice.Local)
            {
                throw new CheckpointEngineException(reason.Error, $"read from {Name} by the local plane: {reason.Message}", reason.NativeCode, reason);
            }
            _localReason = reason.Message;
        }
    }

    /// <summary>Takes RDMA, if both sides have it and no better plane was taken.</summary>
    /// <param name="runs">What is to be read: address and length in the owner's process.</param>
    /// <param name="choice">Auto: what cannot be had is noted. Rdma: it is an error. Else: it is not tried.</param>
    /// <param name="join">The devices and memory of this join.</param>
    /// <param name="stallTimeout">For each answer.</param>
    /// <param name="logger">Told of pairs of devices that fail.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException">RDMA was named by the user and cannot be had.</exception>
    internal async Task OpenRdmaAsync(IEnumerable<(ulong Address, ulong LengthBytes)> runs, TransportChoice choice, RdmaJoin join, TimeSpan stallTimeout, ILogger logger, CancellationToken cancellationToken)
    {
        if (Local is not null || choice is not (TransportChoice.Auto or TransportChoice.Rdma))
        {
            return;
        }
        if (_whyNoRdma is not null)
        {
            _rdmaReason = choice == TransportChoice.Auto ? _whyNoRdma : ThrowHelper.Throw<string>(CheckpointError.NotSupported, $"read from {Name} over RDMA: {_whyNoRdma}; read it with --transport tcp");
            return;
        }
        bool isPlain = _descriptor.Protocol == SegmentDescriptor.RdmaProtocol;
        if (!isPlain && _descriptor.Engine?.Transports.Contains(RdmaReadLane.Name) != true)
        {
            if (choice == TransportChoice.Rdma)
            {
                ThrowHelper.Throw(CheckpointError.NotSupported,
                    $"read from {Name} over RDMA: it does not offer it; look at 'checkpoint-engine doctor' on its host, and how it was started (--transport)");
            }
            return;
        }
        try
        {
            RdmaPlane plane = join.TryOpen(out string? whyNone) ?? ThrowHelper.Throw<RdmaPlane>(CheckpointError.NotSupported, whyNone ?? "there is no RDMA device here");
            if (!isPlain && Peer is { Server.TokenRequired: true })
            {
                ThrowHelper.Throw(CheckpointError.NotSupported, "it demands a token, and RDMA knows none yet");
            }
            SegmentDescriptor descriptor = isPlain ? _descriptor : await HandshakeClient.FetchDescriptorAsync(_opened, s_asksForRdma,
                new HandshakeClientOptions { ReplyTimeout = stallTimeout, MaxFrameBytes = MaxDescriptorBytes }, cancellationToken).ConfigureAwait(false);
            RdmaOwner rdma = RdmaOwner.Make(plane, join.MemoryOf(plane), _opened, Peer is not null && !isPlain, descriptor, stallTimeout, logger);
            foreach ((ulong address, ulong lengthBytes) in runs)
            {
                if (!rdma.Covers(address, lengthBytes))
                {
                    ThrowHelper.Throw(CheckpointError.NotSupported, $"its memory at 0x{address:x} is not registered with its devices; its log says why");
                }
            }
            Rdma = rdma;
        }
        catch (CheckpointEngineException reason) when (choice == TransportChoice.Auto && _target is not null)
        {
            _rdmaReason = reason.Message;
        }
        catch (CheckpointEngineException reason)
        {
            // What was taken away meanwhile is no matter of devices.
            throw Lease is null || await Lease.WhyLostAsync().ConfigureAwait(false) is not { Error: CheckpointError.Superseded } superseded
                ? new CheckpointEngineException(reason.Error, $"read from {Name} over RDMA: {reason.Message}", reason.NativeCode, reason)
                : superseded;
        }
    }

    /// <summary>Takes Mooncake's library, if the user named it.</summary>
    /// <param name="runs">What is to be read: address and length in the owner's process.</param>
    /// <param name="choice">Mooncake, or nothing is done.</param>
    /// <param name="join">The engine of this join.</param>
    /// <param name="stallTimeout">For each answer.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException">There is no library here, or it cannot read the owner.</exception>
    internal async Task OpenMooncakeAsync(IEnumerable<(ulong Address, ulong LengthBytes)> runs, TransportChoice choice, MooncakeJoin join, TimeSpan stallTimeout, CancellationToken cancellationToken)
    {
        if (choice != TransportChoice.Mooncake)
        {
            return;
        }
        if (IsEncrypted)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported, $"read from {Name} through Mooncake's library: it encrypts what it sends, which the library cannot; read it with --transport tcp");
        }
        try
        {
            MooncakeEngine engine = await join.OpenAsync(_opened, cancellationToken).ConfigureAwait(false);
            var options = new HandshakeClientOptions { ReplyTimeout = stallTimeout, MaxFrameBytes = MaxDescriptorBytes };
            Mooncake = await MooncakeOwner.OpenAsync(engine, _opened, runs, options, stallTimeout, cancellationToken).ConfigureAwait(false);
        }
        catch (CheckpointEngineException reason)
        {
            throw new CheckpointEngineException(reason.Error, $"read from {Name} through Mooncake's library: {reason.Message}", reason.NativeCode, reason);
        }
    }

    /// <summary>Leaves RDMA for TCP, when this side's memory cannot be registered.</summary>
    /// <exception cref="CheckpointEngineException">There is no other way, or the user named RDMA.</exception>
    internal void LeaveRdma(CheckpointEngineException reason)
    {
        if (Rdma is not null)
        {
            Rdma = _mayFallBack && _target is not null ? null : throw reason;
            _rdmaReason = reason.Message;
        }
    }

    // The name of the socket is a stranger's word, and another process may listen there: in the joiner's namespaces it can be anybody's.
    private void ThrowIfStranger(PeerClient local, LocalPeers allowed)
    {
        if (Peer!.Server.TokenRequired && !local.Server.TokenRequired)
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"who listens at {_localSocket} does not know the token: it is another process");
        }
        if (local.Server.Instance != Peer.Server.Instance)
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"who listens at {_localSocket} is another process than the owner");
        }
        if (!Peer.Server.TokenRequired && !allowed.Allows(local.Credentials.UserId))
        {
            ThrowHelper.Throw(CheckpointError.Refused,
                $"it runs as user {local.Credentials.UserId}, and this process takes memory from its own user and root alone: set a token on both sides, or allow the user (--local-peers)");
        }
    }

    /// <summary>Whether a plane that has failed may be left for another.</summary>
    internal bool FallsBackFrom(IReadLane lane) => lane is RdmaReadLane || (lane is LocalReadLane && !IsAttached && _mayFallBack);

    /// <summary>Asks the owner what it is, and begins a conversation if it is one of ours.</summary>
    /// <exception cref="CheckpointEngineException">It cannot be reached, refuses, or offers no transport that we have.</exception>
    internal static async Task<OwnerLink> ConnectAsync(MetasOwner owner, AccessToken? token, TransportChoice choice, TimeSpan stallTimeout, CancellationToken cancellationToken, TlsClientOptions? tls = null)
    {
        EndpointName name = EndpointName.Parse(owner.P2pStoreAddress);
        var handshake = new HandshakeClientOptions { ReplyTimeout = stallTimeout, MaxFrameBytes = MaxDescriptorBytes };
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(name, default, handshake, cancellationToken).ConfigureAwait(false);
        descriptor.Validate(anyProtocol: choice == TransportChoice.Mooncake);
        bool isTcp = descriptor.Protocol == SegmentDescriptor.TcpProtocol;
        if (!isTcp && choice is TransportChoice.Tcp or TransportChoice.Local)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported,
                $"read from rank {owner.Rank} at {name}: it offers {descriptor.Protocol} only; read it with --transport rdma, or start it with MC_FORCE_TCP=1");
        }
        bool isSecured = descriptor.Engine is { PeerTls: true, Peer.Length: > 0 };
        if (tls is { Required: true } or { EncryptionRequired: true } && !isSecured)
        {
            ThrowHelper.Throw(CheckpointError.Refused, tls.EncryptionRequired
                ? $"read from {NameOf(owner)}: what it sends is not encrypted, which was demanded (--encrypt); start it with --encrypt and a certificate"
                : $"read from {NameOf(owner)}: it has no peer service that speaks TLS, which was demanded (--require-tls); give it a certificate (--tls-peers there)");
        }
        if (descriptor.Engine is { DataTls: true } && !isSecured)
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"read from {NameOf(owner)}: it says that its data port speaks TLS and its peer service does not, which no holder does: somebody in between has changed it");
        }
        bool demandsEncryption = tls is { EncryptionRequired: true };
        tls = isSecured ? tls ?? new TlsClientOptions() : null;
        PeerClient? peer = null;
        if (descriptor.Engine is { } engine && engine.Peer.Length != 0)
        {
            peer = await PeerClient.ConnectAsync(ServiceOf(name, engine), token, stallTimeout, cancellationToken, tls).ConfigureAwait(false);
        }
        // The hello came within TLS: whoever changed the descriptor has changed nothing.
        bool isEncrypted = peer is { Server.DataTls: true } || descriptor.Engine is { DataTls: true };
        bool isOurs = peer is not null && !descriptor.Engine!.Transports.Contains(MooncakeReadLane.Name);      // else the data port is Mooncake's
        try
        {
            if (demandsEncryption && !(isEncrypted && isTcp))
            {
                ThrowHelper.Throw(CheckpointError.Refused, $"read from {NameOf(owner)}: what it sends is not encrypted, which was demanded (--encrypt); start it with --encrypt");
            }
            if (!isTcp)
            {
                return new OwnerLink(owner, null, peer, descriptor, name, choice, stallTimeout, tls);
            }
            EndpointName data = descriptor.GetTcpDataEndpoint(name);
            IPAddress[] addresses = IPAddress.TryParse(data.Host, out IPAddress? address)
                ? [address]
                : await Dns.GetHostAddressesAsync(data.Host, cancellationToken).ConfigureAwait(false);
            return new OwnerLink(owner, new TcpLaneTarget(
                [.. addresses.Take(16).Select(candidate => new IPEndPoint(candidate, data.Port))],
                NameOf(owner),
                descriptor.TcpProtoVersion,
                IsOurs: isOurs,
                isOurs && peer!.Server.TokenRequired ? token : null,
                s_connectTimeout,
                stallTimeout)
            {
                Tls = isEncrypted ? tls : null,
                TlsHost = name.Host,
            }, peer, descriptor, name, choice, stallTimeout, tls);
        }
        catch
        {
            peer?.Dispose();
            throw;
        }
    }

    /// <summary>Begins another conversation with the owner, for questions that must not wait for the answers of this one.</summary>
    /// <remarks>Where there is a <see cref="Peer"/>. The caller's to dispose.</remarks>
    internal Task<PeerClient> ConverseAsync(AccessToken? token, CancellationToken cancellationToken)
        => PeerClient.ConnectAsync(ServiceOf(_opened, _descriptor.Engine!), token, _stallTimeout, cancellationToken, _tls);

    // The port is the peer's word, the host is the one we opened: a descriptor cannot send us elsewhere.
    private static EndpointName ServiceOf(EndpointName opened, EngineAnnouncement engine) => new(opened.Host, EndpointName.Parse(engine.Peer).Port);

    /// <summary>Whether a lane should end, between two units, because RDMA devices that came up have room for it; then <see cref="Left"/> follows its end.</summary>
    internal bool TryLeave(IReadLane lane) => lane switch
    {
        RdmaReadLane rdma => Rdma?.TryLeave(rdma.Pair) == true,
        TcpReadLane => Rdma?.TryLeave(null) == true,
        _ => false,
    };

    /// <summary>Says that a lane that was let leave has ended.</summary>
    internal void Left() => Rdma?.Left();

    /// <summary>Whether <see cref="TryCreateLane"/> would make one.</summary>
    internal bool HasLaneFree => Local is not null || Rdma is not { Failure: null, HasLaneFree: false };

    /// <summary>A lane that is yet to be connected, and the caller's to dispose; null when there are as many as there can be.</summary>
    /// <exception cref="CheckpointEngineException">No way to the owner is left.</exception>
    internal IReadLane? TryCreateLane()
    {
        if (Mooncake is not null)
        {
            return new MooncakeReadLane(Mooncake);
        }
        if (Local is { Failure: null } || (Local is not null && !_mayFallBack))
        {
            return new LocalReadLane(Local);
        }
        if (Rdma is RdmaOwner rdma)
        {
            if (rdma.TryMakeLane() is RdmaReadLane lane)
            {
                return lane;
            }
            if (rdma.Failure is null)
            {
                return null;
            }
            if (!_mayFallBack || _target is null)
            {
                throw new CheckpointEngineException(CheckpointError.Unreachable,
                    $"read from {Name} over RDMA: {rdma.Failure}; check that the owner still runs, that its devices are up, and the metas of now");
            }
        }
        return new TcpReadLane(_target!);
    }

    public void Dispose()
    {
        Lease?.Dispose();
        Local?.Dispose();
        Peer?.Dispose();
    }
}
