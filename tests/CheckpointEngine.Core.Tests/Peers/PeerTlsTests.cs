using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

/// <summary>The peer service over TLS 1.3: who is trusted, by whom, and who is not.</summary>
public sealed class PeerTlsTests : IDisposable
{
    private readonly TempDirectory _temp = new();
    private readonly TestCertificates _authority = new("Test authority");
    private readonly TestCertificates _stranger = new("Another authority");
    private readonly SmallCheckpoint _model = SmallCheckpoint.OfManySizes();
    private readonly RecordedLog _log = new();

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    public void Dispose()
    {
        _temp.Dispose();
        _authority.Dispose();
        _stranger.Dispose();
        _model.Dispose();
        _log.Dispose();
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public async Task Join_FromAHolderWithTls_Succeeds(bool clientCertificates, bool token)
    {
        await using ParameterServer holder = await StartAsync(clientCertificates, token);
        using X509Certificate2 client = _authority.Issue(isClient: true);
        var tls = new TlsClientOptions { CaFile = WriteAuthority(_authority), Certificate = clientCertificates ? client : null, Required = true };
        Assert.StartsWith("ce+tls://127.0.0.1:", holder.PeerUrl, StringComparison.Ordinal);
        using var metas = new MetasClient(new MetasClientOptions { CaFile = tls.CaFile, ClientCertificate = tls.Certificate, Token = Token(token) });

        await using ParameterServer joiner = Joiner(tls, token);
        JoinReport report = await joiner.JoinAsync(await metas.FetchAsync(holder.PeerUrl + "/model", Cancel), Over(TransportChoice.Tcp), null, Cancel);

        Assert.True(report.Verified);
        string taken = Assert.Single(_log.Of(AuditLog.Category), line => line.StartsWith("lease-taken", StringComparison.Ordinal));
        Assert.Equal(clientCertificates, taken.Contains("(CN=client)", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Join_ThroughTheHostsMemory_NeedsNoTls()
    {
        await using ParameterServer holder = await StartAsync(clientCertificates: false, token: false);
        await using ParameterServer joiner = Joiner(new TlsClientOptions { CaFile = WriteAuthority(_authority) });
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, Over(TransportChoice.Local), null, Cancel);
        Assert.Equal(["local"], report.Transports.Keys);
    }

    [Fact]
    public async Task Join_HolderOfAnotherAuthority_IsRefused()
    {
        await using ParameterServer holder = await StartAsync(clientCertificates: false, token: false);
        foreach (string? authority in new[] { null, WriteAuthority(_stranger) })
        {
            await using ParameterServer joiner = Joiner(new TlsClientOptions { CaFile = authority });
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas, Over(TransportChoice.Tcp), null, Cancel));
            Assert.Equal(CheckpointError.Refused, failure.Error);
            Assert.Contains("--ca-file", failure.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task Join_HolderWithACertificateForAnotherAddress_IsRefused()
    {
        await using ParameterServer holder = await StartAsync(clientCertificates: false, token: false, IPAddress.Parse("127.0.0.2"));
        await using ParameterServer joiner = Joiner(new TlsClientOptions { CaFile = WriteAuthority(_authority) });
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas, Over(TransportChoice.Tcp), null, Cancel));
        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.Contains("'127.0.0.2'", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_WithoutACertificateThatIsTrusted_Fails()
    {
        await using ParameterServer holder = await StartAsync(clientCertificates: true, token: false);
        using X509Certificate2 theirs = _stranger.Issue(isClient: true);
        using X509Certificate2 server = _authority.Issue(isClient: false);
        foreach (X509Certificate2? certificate in new[] { null, theirs, server })
        {
            await using ParameterServer joiner = Joiner(new TlsClientOptions { CaFile = WriteAuthority(_authority), Certificate = certificate });
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas, Over(TransportChoice.Tcp), null, Cancel));
            Assert.True(failure.Error is CheckpointError.Refused or CheckpointError.Unreachable, failure.Message);
        }
        await TcpDataListenerHostileTests.Until(() => _log.Of(AuditLog.Category).Count(line => line.StartsWith("refuse where=peers", StringComparison.Ordinal)) == 3);
        Assert.DoesNotContain(_log.Of(AuditLog.Category), line => line.StartsWith("lease-taken", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Join_ThatDemandsTls_ReadsFromNobodyWithout()
    {
        await using var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [_model.Path], Cancel);
        await using ParameterServer joiner = Joiner(new TlsClientOptions { Required = true });
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas, Over(TransportChoice.Tcp), null, Cancel));
        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.Contains("--tls-peers", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Service_WithTls_AnswersNothingToThoseWhoSpeakNone()
    {
        await using ParameterServer holder = await StartAsync(clientCertificates: false, token: false);
        using RawClient plain = await RawClient.ConnectAsync(IPEndPoint.Parse(holder.PeerUrl["ce+tls://".Length..]));
        await plain.SendAsync(PeerSessionTests.Frame(PeerMessage.Hello, "{\"protocol\":2,\"nonce\":\"00\"}"u8));
        byte[] answer = await plain.ReadToEndAsync();
        Assert.True(answer.Length <= 7, $"{answer.Length} bytes: more than an alert");
    }

    [Fact]
    public async Task Service_WithNewCertificates_ShowsThemToThoseWhoComeThen()
    {
        await using ParameterServer holder = await StartAsync(clientCertificates: false, token: false);
        WriteCertificate(_stranger);
        Assert.True(holder.ReloadCertificates());
        await using ParameterServer joiner = Joiner(new TlsClientOptions { CaFile = WriteAuthority(_stranger) });
        Assert.True((await joiner.JoinAsync(holder.GetMetas("model").Metas, Over(TransportChoice.Tcp), null, Cancel)).Verified);
    }

    [Fact]
    public async Task Token_PassedOnBySomebodyWhoEndsTlsInBetween_OpensNothing()
    {
        await using ParameterServer holder = await StartAsync(clientCertificates: false, token: true);
        using X509Certificate2 trusted = _authority.Issue(isClient: false);         // by the same authority, for the same address
        using X509Certificate2 shown = X509CertificateLoader.LoadPkcs12(trusted.Export(X509ContentType.Pkcs12), null);
        IPEndPoint service = IPEndPoint.Parse(holder.PeerUrl["ce+tls://".Length..]);
        var tls = new TlsClientOptions { CaFile = WriteAuthority(_authority), Required = true };
        await using ScriptedPort between = PassOn(service, shown);
        await using ScriptedPort wire = PassOn(service, null);

        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => ConnectAsync(between.EndPoint));

        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.Contains("yours is missing or another", failure.Message, StringComparison.Ordinal);      // by the holder, who knows its own certificate
        await TcpDataListenerHostileTests.Until(() => _log.Of(AuditLog.Category).Any(line => line.Contains("token is missing or not ours", StringComparison.Ordinal)));
        using PeerClient untouched = await ConnectAsync(wire.EndPoint);            // who passes on what he cannot read harms nobody

        Task<PeerClient> ConnectAsync(IPEndPoint to) => PeerClient.ConnectAsync(EndpointName.FromEndPoint(to), Token(true), TimeSpan.FromSeconds(20), Cancel, tls);
    }

    // To the service and back, inside TLS of its own when it has a certificate.
    private static ScriptedPort PassOn(IPEndPoint service, X509Certificate2? certificate) => new(async (stream, _, token) =>
    {
        using var onward = new TcpClient();
        await onward.ConnectAsync(service, token);
        Stream near = stream, far = onward.GetStream();
        if (certificate is not null)
        {
            var server = new SslStream(near);
            await server.AuthenticateAsServerAsync(new SslServerAuthenticationOptions { ServerCertificate = certificate }, token);
            var client = new SslStream(far);
            await client.AuthenticateAsClientAsync(new SslClientAuthenticationOptions { TargetHost = "127.0.0.1", RemoteCertificateValidationCallback = (_, shown, _, _) => shown?.Subject == "CN=server" }, token);
            (near, far) = (server, client);
        }
        await Task.WhenAny(near.CopyToAsync(far, token), far.CopyToAsync(near, token));
    });

    private async Task<ParameterServer> StartAsync(bool clientCertificates, bool token, IPAddress? address = null)
    {
        WriteCertificate(_authority);
        var holder = new ParameterServer(new ParameterServerOptions
        {
            Address = address ?? IPAddress.Loopback,
            Token = Token(token),
            LoggerFactory = _log,
            PeerTls = new TlsServerOptions { CertificateFile = _temp["cert"], KeyFile = _temp["key"], ClientCaFile = clientCertificates ? WriteAuthority(_authority) : null },
        });
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [_model.Path], Cancel);
        return holder;
    }

    private static ParameterServer Joiner(TlsClientOptions tls, bool token = false) => new(new ParameterServerOptions { ClientTls = tls, Token = Token(token) });

    private static AccessToken? Token(bool token) => token ? AccessToken.FromText("correct horse") : null;

    private static JoinOptions Over(TransportChoice transport) => new() { CheckpointName = "copy", Transport = transport };

    private string WriteAuthority(TestCertificates authority) => _temp.Write(authority.Authority.Subject + ".pem", authority.Authority.ExportCertificatePem());

    private void WriteCertificate(TestCertificates authority)
    {
        using X509Certificate2 certificate = authority.Issue(isClient: false);
        _temp.Write("cert", certificate.ExportCertificatePem());
        _temp.Write("key", certificate.GetECDsaPrivateKey()!.ExportPkcs8PrivateKeyPem());
    }
}
