using System.Buffers;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography.X509Certificates;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Relay;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

/// <summary>Joins from a holder that encrypts what it sends: what crosses the network, who may be read, what becomes of an announcement that somebody changes, and relays.</summary>
public sealed class EncryptionTests : IDisposable
{
    private readonly TempDirectory _temp = new();
    private readonly TestCertificates _authority = new("Test authority");
    private readonly SmallCheckpoint _model = SmallCheckpoint.OfManySizes();
    private readonly RecordedLog _log = new();

    public EncryptionTests()
    {
        using X509Certificate2 certificate = _authority.Issue(isClient: false);
        _temp.Write("cert", certificate.ExportCertificatePem());
        _temp.Write("key", certificate.GetECDsaPrivateKey()!.ExportPkcs8PrivateKeyPem());
        _temp.Write("ca", _authority.Authority.ExportCertificatePem());
    }

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    public void Dispose()
    {
        _temp.Dispose();
        _authority.Dispose();
        _model.Dispose();
        _log.Dispose();
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    public async Task Join_FromAHolderThatEncrypts_BringsEverything(bool token, bool requireLease)
    {
        AccessToken? secret = token ? AccessToken.FromText("correct horse") : null;
        await using ParameterServer holder = await HoldAsync(new ParameterServerOptions { Token = secret, RequireLease = requireLease });
        await using var joiner = new ParameterServer(new ParameterServerOptions { Token = secret, ClientTls = Trusting(demands: true) });

        JoinReport report = await joiner.JoinAsync(MetasOf(holder), OverTcp(), null, Cancel);

        Assert.True(report.Verified);
        Assert.Equal(["tcp"], report.Transports.Keys);
        Assert.True(Assert.Single(report.Planes).Encrypted);
        SmallCheckpoint.AssertEqual(_model.Tensors, joiner.FindCheckpoint("copy")!);
    }

    [Fact]
    public async Task Join_OnTheSameHost_TakesTheMemoryItselfAsBefore()
    {
        await using ParameterServer holder = await HoldAsync(new ParameterServerOptions());
        await using var joiner = new ParameterServer(new ParameterServerOptions { ClientTls = Trusting(demands: true) });
        JoinReport report = await joiner.JoinAsync(MetasOf(holder), new JoinOptions { CheckpointName = "copy" }, null, Cancel);
        Assert.Equal(["local"], report.Transports.Keys);
        Assert.False(Assert.Single(report.Planes).Encrypted);
    }

    [Fact]
    public async Task Probe_SaysThatRdmaIsOffAndWhy()
    {
        await using ParameterServer holder = await HoldAsync(new ParameterServerOptions { Transport = TransportChoice.Tcp });
        await using var joiner = new ParameterServer(new ParameterServerOptions { ClientTls = Trusting(demands: true) });
        OwnerPlane plane = Assert.Single(await joiner.ProbeAsync(MetasOf(holder), new JoinOptions(), Cancel));
        Assert.Contains("RDMA cannot", plane.Reason, StringComparison.Ordinal);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(MetasOf(holder), new JoinOptions { Transport = TransportChoice.Rdma }, null, Cancel));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Join_ThatDemandsEncryption_ReadsFromNobodyElse(bool tlsPeers)
    {
        await using ParameterServer holder = await HoldAsync(new ParameterServerOptions(), tlsPeers, encrypts: false);
        await using var joiner = new ParameterServer(new ParameterServerOptions { ClientTls = Trusting(demands: true) });
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(MetasOf(holder), OverTcp(), null, Cancel));
        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.Contains("--encrypt", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_WithoutTheClientCertificateThatIsDemanded_Fails()
    {
        await using ParameterServer holder = await HoldAsync(new ParameterServerOptions(), clientCertificates: true);
        await using var without = new ParameterServer(new ParameterServerOptions { ClientTls = Trusting(demands: true) });
        await Assert.ThrowsAsync<CheckpointEngineException>(() => without.JoinAsync(MetasOf(holder), OverTcp(), null, Cancel));
        using X509Certificate2 certificate = _authority.Issue(isClient: true);
        TlsClientOptions tls = Trusting(demands: true);
        tls.Certificate = certificate;
        await using var with = new ParameterServer(new ParameterServerOptions { ClientTls = tls });
        Assert.True((await with.JoinAsync(MetasOf(holder), OverTcp(), null, Cancel)).Verified);
    }

    [Fact]
    public async Task Start_WithWhatCannotBeEncrypted_IsAMistake()
    {
        foreach (Action<ParameterServerOptions> spoil in (Action<ParameterServerOptions>[])
            [options => options.PeerTls = null, options => options.PlainPeers = PlainPeers.All, options => options.Transport = TransportChoice.Rdma, options => options.Transport = TransportChoice.Mooncake])
        {
            var options = new ParameterServerOptions { PeerTls = Certificate(), EncryptData = true };
            spoil(options);
            await using var server = new ParameterServer(options);
            await Assert.ThrowsAsync<InvalidOperationException>(() => server.StartAsync(Cancel));
        }
    }

    // The same listener in between sees the weights of a holder that does not encrypt: it would find them.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Join_ThroughAListener_ShowsItTheWeightsOnlyInPlain(bool encrypts)
    {
        await using ParameterServer holder = await HoldAsync(new ParameterServerOptions(), tlsPeers: encrypts, encrypts);
        await using Between between = await Between.StartAsync(holder, static engine => engine);
        await using var joiner = new ParameterServer(new ParameterServerOptions { ClientTls = Trusting(demands: encrypts) });

        JoinReport report = await joiner.JoinAsync(between.Redirect(MetasOf(holder)), OverTcp(), null, Cancel);

        Assert.True(report.Verified);
        byte[][] seen = between.Seen;
        Assert.True(seen.Sum(static bytes => (long)bytes.Length) > _model.Tensors.Values.Sum(static bytes => (long)bytes.Length));
        foreach (byte[] tensor in _model.Tensors.Values.Where(static bytes => bytes.Length > 4096))
        {
            Assert.Equal(encrypts, !Array.Exists(seen, bytes => bytes.AsSpan().IndexOf(tensor.AsSpan(tensor.Length / 2, 16)) >= 0));
        }
    }

    [Fact]
    public async Task Join_DataTlsIsStrippedFromTheAnnouncement_EncryptsAllTheSame()
    {
        await using ParameterServer holder = await HoldAsync(new ParameterServerOptions());
        await using Between between = await Between.StartAsync(holder, static engine => engine! with { DataTls = false });
        await using var joiner = new ParameterServer(new ParameterServerOptions { ClientTls = Trusting(demands: false) });
        Assert.True(Assert.Single((await joiner.JoinAsync(between.Redirect(MetasOf(holder)), OverTcp(), null, Cancel)).Planes).Encrypted);
    }

    [Theory]
    [InlineData("peer service", false)]
    [InlineData("both", false)]
    [InlineData("all", false)]
    [InlineData("peer service", true)]
    [InlineData("both", true)]
    [InlineData("all", true)]
    public async Task Join_TlsIsStrippedFromTheAnnouncement_FailsAndShowsNothing(string what, bool demands)
    {
        await using ParameterServer holder = await HoldAsync(new ParameterServerOptions());
        await using Between between = await Between.StartAsync(holder, engine => what switch
        {
            "all" => null,
            "both" => engine! with { DataTls = false, PeerTls = false },
            _ => engine! with { PeerTls = false },
        });
        await using var joiner = new ParameterServer(new ParameterServerOptions { ClientTls = Trusting(demands) });
        JoinOptions options = OverTcp();
        options.StallTimeout = TimeSpan.FromSeconds(2);

        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(between.Redirect(MetasOf(holder)), options, null, Cancel));

        Assert.Equal(demands, failure.Message.Contains("--encrypt", StringComparison.Ordinal));
        Assert.InRange(between.Seen.Sum(static bytes => (long)bytes.Length), 0, 4096);
    }

    [Fact]
    public async Task Relays_OfWhatIsEncrypted_AreToo()
    {
        await using ParameterServer holder = await HoldAsync(new ParameterServerOptions());
        await using var first = new ParameterServer(new ParameterServerOptions { ClientTls = Trusting(demands: false), PeerTls = Certificate(), LoggerFactory = _log });
        await using var second = new ParameterServer(new ParameterServerOptions { ClientTls = Trusting(demands: true) });

        JoinReport one = await first.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);
        JoinReport two = await second.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);

        Assert.Empty(one.Warnings);
        Assert.Equal(two.Bytes, two.RelayedBytes);
        Assert.Contains("offered to no other", Assert.Single(two.Warnings), StringComparison.Ordinal);       // it has no certificate
        SmallCheckpoint.AssertEqual(_model.Tensors, second.FindCheckpoint("copy")!);
        await first.FinishRelaysAsync(TimeSpan.Zero, Cancel);
        Assert.Single(_log.Of(AuditLog.Category), line => line.StartsWith("relay-taken peer=127.0.0.1:", StringComparison.Ordinal));
        Assert.Single(_log.Of(AuditLog.Category), line => line.StartsWith("relay-ended peer=127.0.0.1:", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Relays_WithoutTls_AreReadByNobodyWhoDemandsIt()
    {
        await using ParameterServer holder = await HoldAsync(new ParameterServerOptions(), tlsPeers: true, encrypts: false);
        await using var plain = new ParameterServer(new ParameterServerOptions { ClientTls = Trusting(demands: false) });
        TlsClientOptions tls = Trusting(demands: false);
        tls.Required = true;
        await using var demanding = new ParameterServer(new ParameterServerOptions { ClientTls = tls });
        await using var withCertificate = new ParameterServer(new ParameterServerOptions { ClientTls = tls, PeerTls = Certificate() });
        await using var last = new ParameterServer(new ParameterServerOptions { ClientTls = tls, PeerTls = Certificate() });

        await plain.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);
        JoinReport two = await demanding.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);
        JoinReport three = await withCertificate.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);
        JoinReport four = await last.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);

        Assert.Equal(0, two.RelayedBytes);
        Assert.Contains("offered to no other", Assert.Single(two.Warnings), StringComparison.Ordinal);
        Assert.Equal(0, three.RelayedBytes);
        Assert.Equal(four.Bytes, four.RelayedBytes);        // of the third
    }

    [Fact]
    public async Task Relay_KeepsTheLimitsOfItsServer()
    {
        var terms = new RelayTerms { Logging = _log, Limits = new ServerLimits { Peers = new ConnectionLimits(1, 1) }, Audit = new AuditLog(_log) };
        await using var relay = new RelayServer(IPAddress.Loopback, null, new RelayOffer(1, new UnitBoard([4], 1, new Random(1)), [0]), terms);
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(new EndpointName("127.0.0.1", relay.Port), default, HandshakeClientOptions.Default, Cancel);
        EndpointName service = EndpointName.Parse(descriptor.Engine!.Peer);
        using PeerClient one = await PeerClient.ConnectAsync(service, null, TimeSpan.FromSeconds(20), Cancel);
        await one.GetOfferAsync(1, 1, Cancel);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => PeerClient.ConnectAsync(service, null, TimeSpan.FromSeconds(20), Cancel));
        Assert.Equal(CheckpointError.Busy, failure.Error);
        Assert.StartsWith("relay-taken peer=127.0.0.1:", Assert.Single(_log.Of(AuditLog.Category)), StringComparison.Ordinal);
    }

    private static JoinOptions OverTcp() => new() { CheckpointName = "copy", Transport = TransportChoice.Tcp };

    private static JoinOptions Relayed() => new() { CheckpointName = "copy", Transport = TransportChoice.Tcp, Relay = true };

    private static CheckpointMetas MetasOf(ParameterServer server) => server.GetMetas("model").Metas;

    private TlsClientOptions Trusting(bool demands) => new() { CaFile = _temp["ca"], EncryptionRequired = demands };

    private TlsServerOptions Certificate(bool clientCertificates = false) => new() { CertificateFile = _temp["cert"], KeyFile = _temp["key"], ClientCaFile = clientCertificates ? _temp["ca"] : null };

    private async Task<ParameterServer> HoldAsync(ParameterServerOptions options, bool tlsPeers = true, bool encrypts = true, bool clientCertificates = false)
    {
        options.PeerTls = tlsPeers ? Certificate(clientCertificates) : null;
        options.EncryptData = encrypts;
        options.DrainTimeout = TimeSpan.Zero;
        var holder = new ParameterServer(options);
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [_model.Path], Cancel);
        return holder;
    }

    /// <summary>Somebody between a joiner and a holder: changes what the holder announces, and sees what its data port sends.</summary>
    private sealed class Between : IHandshakeResponder, IAsyncDisposable
    {
        private readonly ParameterServer _holder;
        private readonly SegmentDescriptor _told;
        private readonly ScriptedPort _data;
        private readonly HandshakeListener _handshakes;
        private readonly List<MemoryStream> _seen = [];     // of each connection: what two of them carry is not one text

        private Between(ParameterServer holder, SegmentDescriptor descriptor, Func<EngineAnnouncement?, EngineAnnouncement?> change)
        {
            _holder = holder;
            _data = new ScriptedPort((stream, _, token) => PassOnAsync(stream, new IPEndPoint(IPAddress.Loopback, descriptor.TcpDataPort), token));
            _told = new SegmentDescriptor
            {
                Name = descriptor.Name,
                Protocol = SegmentDescriptor.TcpProtocol,
                TcpDataPort = _data.EndPoint.Port,
                TcpProtoVersion = descriptor.TcpProtoVersion,
                Timestamp = descriptor.Timestamp,
                Buffers = PublishedBuffers.OverTcp(holder.Registry.Ranges, descriptor.Name),
                Engine = change(descriptor.Engine),
            };
            _handshakes = HandshakeListener.Start([new IPEndPoint(IPAddress.Loopback, 0)], this, new HandshakeListenerOptions());
        }

        internal byte[][] Seen
        {
            get
            {
                lock (_seen)
                {
                    return [.. _seen.Select(static bytes => bytes.ToArray())];
                }
            }
        }

        internal static async Task<Between> StartAsync(ParameterServer holder, Func<EngineAnnouncement?, EngineAnnouncement?> change)
            => new(holder, await HandshakeClient.FetchDescriptorAsync(EndpointName.Parse(holder.P2pStoreAddress), default, HandshakeClientOptions.Default, Cancel), change);

        /// <summary>The metas as if the holder were here.</summary>
        internal CheckpointMetas Redirect(CheckpointMetas metas)
        {
            var json = new ArrayBufferWriter<byte>();
            MetasJsonWriter.Write(metas, json);
            return MetasJsonReader.Read(Encoding.UTF8.GetBytes(Encoding.UTF8.GetString(json.WrittenSpan).Replace(_holder.P2pStoreAddress, _handshakes.EndPoints[0].ToString(), StringComparison.Ordinal)));
        }

        public void WriteDescriptor(IBufferWriter<byte> output, in PeerRequest request) => SegmentDescriptorWriter.Write(output, _told);

        public void OnNotify(string name, string message)
        {
        }

        public void WriteConnectionReply(IBufferWriter<byte> output, ReadOnlySequence<byte> request, in PeerRequest peer) => ConnectionReply.WriteRefusal(output, ConnectionReply.NoRdma);

        public async ValueTask DisposeAsync()
        {
            await _handshakes.DisposeAsync();
            await _data.DisposeAsync();
        }

        private async Task PassOnAsync(NetworkStream joiner, IPEndPoint target, CancellationToken token)
        {
            using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            await socket.ConnectAsync(target, token);
            using var holder = new NetworkStream(socket, ownsSocket: false);
            Task requests = joiner.CopyToAsync(holder, token);
            var seen = new MemoryStream();
            lock (_seen)
            {
                _seen.Add(seen);
            }
            byte[] piece = new byte[256 << 10];
            while (await holder.ReadAsync(piece, token) is > 0 and int count)
            {
                lock (_seen)
                {
                    seen.Write(piece, 0, count);
                }
                await joiner.WriteAsync(piece.AsMemory(0, count), token);
            }
            joiner.Socket.Shutdown(SocketShutdown.Send);
            await requests;
        }
    }
}
