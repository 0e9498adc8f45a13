using System.Buffers;
using System.Buffers.Binary;
using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Local;
using CheckpointEngine.Transfer.Mooncake;
using CheckpointEngine.Transfer.Rdma;
using CheckpointEngine.Transfer.Tcp;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer;

/// <summary>The listening side of transfers: the registered ranges, the handshake port that describes them, and the data port that serves them.</summary>
/// <remarks>Any number of threads.</remarks>
internal sealed partial class TransferEngine : IHandshakeResponder, IAsyncDisposable
{
    private static readonly TimeSpan s_cutInterval = TimeSpan.FromMilliseconds(50);

    // Nothing new is begun by then, so what is left is one request a lane: who takes longer for it hangs.
    private static readonly TimeSpan s_longestRead = TimeSpan.FromSeconds(10);

    private readonly ParameterServerOptions _options;
    private readonly ILogger _logger;
    private readonly PlainPeers _plainPeers;
    private readonly TcpDataListener? _data;              // null: Mooncake's library has its own
    private readonly HandshakeListener _handshakes;
    private readonly EngineAnnouncement _announcement;
    private readonly EngineAnnouncement _announcementOfRdma;
    private readonly RdmaPlane? _rdmaPlane;
    private readonly RdmaServing? _rdma;
    private readonly MooncakeServing? _mooncake;
    private int _toldOfLength;

    /// <summary>Binds its ports and listens at once.</summary>
    /// <param name="options">Address, port, token and who may read plainly.</param>
    /// <param name="laneToken">What our own lanes must prove; null for nothing.</param>
    /// <param name="registry">What peers may read.</param>
    /// <param name="peerName">Where the peer service of this process is, as peers are told.</param>
    /// <param name="localSocket">Where it is for processes of this host; empty for nowhere.</param>
    /// <param name="rdma">The RDMA devices to be read over; null for none. The caller's, who disposes it later.</param>
    /// <param name="mooncake">Mooncake's library, which then serves in place of our own data port; null for none. The caller's, who disposes it later.</param>
    /// <param name="audit">Told of those that are refused; null for nobody.</param>
    /// <param name="security">With what the peer service speaks TLS, and the data port where options say so; null: nothing does. The caller's, who disposes of it later.</param>
    /// <exception cref="CheckpointEngineException">An address or port cannot be had.</exception>
    internal TransferEngine(ParameterServerOptions options, AccessToken? laneToken, MemoryRegistry registry, EndpointName peerName, string localSocket, RdmaPlane? rdma, MooncakeEngine? mooncake, AuditLog? audit = null, IConnectionSecurity? security = null)
    {
        Registry = registry;
        _options = options;
        _logger = options.LoggerFactory.CreateLogger("CheckpointEngine.Transfer");
        _plainPeers = options.AllowedPlainPeers;
        var anyPort = new IPEndPoint(options.Address, 0);
        _data = mooncake is not null ? null : new TcpDataListener(anyPort, Registry, new TcpDataListenerOptions
        {
            Token = laneToken,
            PlainPeers = options.EncryptData && laneToken is null ? PlainPeers.All : _plainPeers,       // within TLS, where no plain peer comes
            Security = options.EncryptData ? security : null,
            MeasurePeers = options.MeasurePeers,
            Limits = options.Limits.Data,
            BytesInFlight = options.Limits.DataBytesInFlight,
            Audit = audit,
        }, _logger);
        _announcement = Announce(false);
        _announcementOfRdma = Announce(true);
        if (mooncake is not null)
        {
            _mooncake = new MooncakeServing(mooncake);
            registry.Observe(_mooncake.Add, _mooncake.Remove);
        }
        try
        {
            // Last: once the handshake port answers, all that it describes is there.
            _handshakes = HandshakeListener.Start([new IPEndPoint(options.Address, options.Port)], this, new HandshakeListenerOptions { Logger = _logger, Limits = options.Limits.Handshake });
        }
        catch
        {
            _ = _data?.DisposeAsync().AsTask();      // its socket is closed at once; nobody has connected
            throw;
        }
        Name = EndpointName.FromEndPoint(_handshakes.EndPoints[0]);
        if (rdma is not null)
        {
            rdma.ServeAt(Name);
            _rdmaPlane = rdma;
            _rdma = new RdmaServing(rdma, Name, MayBeAsked, audit, options.LoggerFactory.CreateLogger("CheckpointEngine.Transfer.Rdma"));
            registry.Observe(OfferOverRdma, _rdma.Memory.Remove);
            registry.ObserveFilling(_rdma.Memory.Begin, _rdma.Memory.Abandon);
        }

        EngineAnnouncement Announce(bool withRdma) => new()
        {
            Peer = peerName.ToString(),
            PeerTls = security is not null,
            DataTls = options.EncryptData,
            HostId = HostIdentity.BootId,
            LocalSocket = localSocket,
            Transports = mooncake is not null ? [MooncakeReadLane.Name]
                : [.. localSocket.Length == 0 ? [] : (string[])[LocalReadLane.Name], .. withRdma ? (string[])[RdmaReadLane.Name] : [], SegmentDescriptor.TcpProtocol],
            TokenRequired = options.Token is not null,
            Version = EngineVersion.Text,
        };
    }

    // With RDMA while a device can be used.
    private EngineAnnouncement Announcement => _rdmaPlane is { WhyNone: null } ? _announcementOfRdma : _announcement;

    /// <summary>The planes that are offered now, the best first.</summary>
    internal IReadOnlyList<string> Planes => Announcement.Transports;

    /// <summary>Data connections that are open.</summary>
    internal int DataConnectionCount => _data?.ConnectionCount ?? 0;

    /// <summary>Bytes sent over data connections.</summary>
    internal long SentBytes => _data?.Served().Bytes ?? 0;

    /// <summary>Who has data connections open, and what was sent over them.</summary>
    internal IReadOnlyList<ReaderStatus> DescribeReaders() => _data?.DescribeReaders() ?? [];

    /// <summary>The ranges that peers may read.</summary>
    internal MemoryRegistry Registry { get; }

    /// <summary>The segment's name: where the handshake port is.</summary>
    internal EndpointName Name { get; }

    /// <summary>
    /// Takes ranges away, once leases on them have ended: waits for reads under way, ten seconds at most, and no longer than
    /// <see cref="ParameterServerOptions.DrainTimeout"/>, then cuts who still reads.
    /// </summary>
    /// <param name="ranges">The ranges.</param>
    /// <param name="cutOthers">Cuts who reads a range in another way than over the data port.</param>
    internal async Task UnregisterAsync(IReadOnlyList<RegisteredRange> ranges, Action<RegisteredRange> cutOthers)
    {
        await Registry.UnregisterAsync(ranges, _options.DrainTimeout < s_longestRead ? _options.DrainTimeout : s_longestRead).ConfigureAwait(false);
        Task drained = Task.WhenAll(ranges.Select(range => range.Drained));
        while (!drained.IsCompleted)
        {
            foreach (RegisteredRange range in ranges)
            {
                if (!range.Drained.IsCompleted)
                {
                    _data?.CutReadersOf(range);
                    cutOthers(range);
                }
            }
            // Again and again: a read counts a moment before its connection tells which range it reads.
            await Task.WhenAny(drained, Task.Delay(s_cutInterval, CancellationToken.None)).ConfigureAwait(false);
        }
    }

    // Networks that the user listed; and processes of this host, at any of its addresses, which could go there themselves.
    private bool MayBeAsked(System.Net.IPAddress asker, System.Net.IPAddress named)
        => _plainPeers.IsList ? _plainPeers.Allows(named) : HostIdentity.IsOwnAddress(asker) && HostIdentity.IsOwnAddress(named);

    // What cannot be registered is served over the other planes, unless the user named this one.
    private void OfferOverRdma(RegisteredRange range)
    {
        try
        {
            _rdma!.Memory.Add(range);
        }
        catch (CheckpointEngineException reason) when (_options.Transport == TransportChoice.Auto)
        {
            LogNotOverRdma(reason.Message);
        }
    }

    void IHandshakeResponder.WriteDescriptor(IBufferWriter<byte> output, in PeerRequest request)
    {
        if (_mooncake is not null)
        {
            _mooncake.WriteDescriptor(output, _announcement);
            return;
        }
        // Who may not read plainly learns where the peer service is, and no address.
        bool plain = _plainPeers.Allows(request.Remote.Address);
        string name = Name.ToString();
        EngineAnnouncement announcement = Announcement;
        if (plain && request.Protocol == SegmentDescriptor.RdmaProtocol && _rdma is not null && announcement == _announcementOfRdma)
        {
            RdmaOffer offer = _rdma.Memory.Describe();
            if (offer.Buffers.Length > PublishedBuffers.MostOverRdma(offer.Devices.Length) && Interlocked.Exchange(ref _toldOfLength, 1) == 0)
            {
                LogTooLong(offer.Buffers.Length);
            }
            WriteRdmaDescriptor(output, offer, announcement);
            return;
        }
        SegmentDescriptorWriter.Write(output, new SegmentDescriptor
        {
            Name = name,
            Protocol = SegmentDescriptor.TcpProtocol,
            TcpDataPort = _data!.LocalEndPoint.Port,
            TcpProtoVersion = 2,
            Timestamp = SegmentDescriptor.FormatTimestamp(DateTimeOffset.Now),
            Buffers = plain ? PublishedBuffers.OverTcp(Registry.Ranges, name) : [],
            Engine = announcement,
        });
    }

    /// <summary>Lets a lease connect queue pairs, until it is ended.</summary>
    /// <param name="conversationKey">What both sides of the conversation have, in which the lease was taken.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: no device can be read over now.</exception>
    internal RdmaGrant GrantRdma(ReadOnlySpan<byte> conversationKey)
        => _rdma is not null && _rdmaPlane is { WhyNone: null }
            ? _rdma.Grants.Give(conversationKey)
            : ThrowHelper.Throw<RdmaGrant>(CheckpointError.NotSupported, "no RDMA device can be used there now; look at 'checkpoint-engine doctor' on its host, and how it was started (--transport)");

    /// <summary>Writes what one that may connect needs to know.</summary>
    internal void WriteRdmaOffer(IBufferWriter<byte> output, RdmaGrant grant)
    {
        BinaryPrimitives.WriteUInt128LittleEndian(output.GetSpan(RdmaKey.NumberBytes), grant.Key.Number);
        output.Advance(RdmaKey.NumberBytes);
        output.Write(grant.Salt);
        WriteRdmaDescriptor(output, _rdma!.Memory.Describe(), _announcementOfRdma);
    }

    private void WriteRdmaDescriptor(IBufferWriter<byte> output, RdmaOffer offer, EngineAnnouncement announcement) => SegmentDescriptorWriter.Write(output, new SegmentDescriptor
    {
        Name = Name.ToString(),
        Protocol = SegmentDescriptor.RdmaProtocol,
        TcpProtoVersion = 1,
        Timestamp = SegmentDescriptor.FormatTimestamp(DateTimeOffset.Now),
        Buffers = offer.Buffers,
        Devices = _rdmaPlane!.DescribeDevices(offer.Devices),
        PriorityMatrix = offer.Matrix,
        Engine = offer.Devices.AsSpan().SequenceEqual(offer.Rails)
            ? announcement
            : announcement with { Rails = Array.ConvertAll(offer.Rails, device => _rdmaPlane.Nics[device].Name) },
    });

    void IHandshakeResponder.OnNotify(string name, string message) => LogNotify(name.Length, message.Length);

    void IHandshakeResponder.WriteConnectionReply(IBufferWriter<byte> output, ReadOnlySequence<byte> request, in PeerRequest peer)
    {
        if (_mooncake is not null)
        {
            _mooncake.WriteConnectionReply(output, request);
        }
        else if (_rdma is null)
        {
            ConnectionReply.WriteRefusal(output, ConnectionReply.NoRdma);
        }
        else
        {
            _rdma.WriteReply(output, request, peer.Remote, needsProof: !_plainPeers.Allows(peer.Remote.Address));
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _handshakes.DisposeAsync().ConfigureAwait(false);
        _rdma?.Dispose();
        if (_data is not null)
        {
            await _data.DisposeAsync().ConfigureAwait(false);
        }
    }

    [LoggerMessage(EventId = 2001, Level = LogLevel.Warning, Message = "not served over RDMA: {Reason}")]
    private partial void LogNotOverRdma(string reason);

    [LoggerMessage(EventId = 2002, Level = LogLevel.Warning, Message = "{Count} regions are registered for RDMA: Mooncake peers take a descriptor of that length only with MC_HANDSHAKE_MAX_LENGTH set (128 MiB at most), on their side")]
    private partial void LogTooLong(int count);

    // The texts are a stranger's and of any content: only their lengths are logged.
    [LoggerMessage(EventId = 2003, Level = LogLevel.Debug, Message = "handshake: a notification of {NameLength} + {MessageLength} characters, not used here")]
    private partial void LogNotify(int nameLength, int messageLength);
}
