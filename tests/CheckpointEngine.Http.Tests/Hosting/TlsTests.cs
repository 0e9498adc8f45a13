using System.Net;
using System.Net.Security;
using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Replies;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Http.Tests.Hosting;

public sealed class TlsTests : IDisposable
{
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("ce-tls-");
    private readonly TestCertificates _authority = new("Test authority");
    private readonly TestCertificates _stranger = new("Another authority");

    public void Dispose()
    {
        _authority.Dispose();
        _stranger.Dispose();
        _directory.Delete(recursive: true);
    }

    [Fact]
    public async Task Https_WithoutClientAuthority_AsksForNoCertificate()
    {
        await using CheckpointEngineHost host = await StartAsync();
        Assert.StartsWith("https://127.0.0.1:", Assert.Single(host.Addresses), StringComparison.Ordinal);
        Assert.Equal(HttpStatusCode.OK, await GetAsync(host, null));
    }

    [Fact]
    public async Task Https_WithClientAuthority_LetsOnlyItsOwnIn()
    {
        await using CheckpointEngineHost host = await StartAsync(options => options.TlsClientCaFile = Write("ca.pem", _authority.Authority.ExportCertificatePem()));
        using X509Certificate2 ours = _authority.Issue(isClient: true);
        using X509Certificate2 theirs = _stranger.Issue(isClient: true);
        using X509Certificate2 server = _authority.Issue(isClient: false);
        using X509Certificate2 expired = _authority.Issue(isClient: true, DateTimeOffset.UtcNow.AddMinutes(-1));
        Assert.Equal(HttpStatusCode.OK, await GetAsync(host, ours));
        foreach (X509Certificate2? refused in new[] { null, theirs, server, expired })
        {
            await Assert.ThrowsAsync<HttpRequestException>(() => GetAsync(host, refused));
        }
    }

    [Fact]
    public async Task Https_WithClientAuthorityAndToken_TakesEither()
    {
        await using CheckpointEngineHost host = await StartAsync(options =>
        {
            options.TlsClientCaFile = Write("ca.pem", _authority.Authority.ExportCertificatePem());
            options.Token = AccessToken.FromText("t");
        });
        using X509Certificate2 ours = _authority.Issue(isClient: true);
        using X509Certificate2 theirs = _stranger.Issue(isClient: true);
        Assert.Equal(HttpStatusCode.OK, await GetAsync(host, ours));
        Assert.Equal(HttpStatusCode.OK, await GetAsync(host, null, "t"));
        Assert.Equal(HttpStatusCode.Unauthorized, await GetAsync(host, null));
        Assert.Equal(HttpStatusCode.Unauthorized, await GetAsync(host, null, "u"));
        await Assert.ThrowsAsync<HttpRequestException>(() => GetAsync(host, theirs, "t"));
    }

    [Fact]
    public async Task Https_WithOldTls_IsRefused()
    {
        await using CheckpointEngineHost host = await StartAsync();
#pragma warning disable SYSLIB0039, CA5397 // The old version is the point.
        await Assert.ThrowsAsync<HttpRequestException>(() => GetAsync(host, null, null, SslProtocols.Tls11));
#pragma warning restore SYSLIB0039, CA5397
        Assert.Equal(HttpStatusCode.OK, await GetAsync(host, null, null, SslProtocols.Tls12));
    }

    [Fact]
    public async Task Start_WithBadFiles_SaysWhich()
    {
        CheckpointEngineException missing = await Assert.ThrowsAsync<CheckpointEngineException>(() => StartAsync(options => options.TlsKeyFile = "/nowhere/key.pem"));
        Assert.Equal(CheckpointError.Io, missing.Error);
        Assert.Contains("/nowhere/key.pem", missing.Message, StringComparison.Ordinal);
        CheckpointEngineException garbage = await Assert.ThrowsAsync<CheckpointEngineException>(() => StartAsync(options => options.TlsClientCaFile = Write("ca.pem", "hello")));
        Assert.Equal(CheckpointError.InvalidData, garbage.Error);
        Assert.Contains("ca.pem", garbage.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Https_CertificateReplaced_OpenConnectionsGoOnAndNewOnesGetIt(bool isAskedTo)
    {
        await using CheckpointEngineHost host = await StartAsync();
        var seen = new List<string>();
        using HttpClient open = Client(seen);
        string url = host.Addresses[0] + "/v1/metas";
        (await open.GetAsync(url, TestServer.Cancellation)).EnsureSuccessStatusCode();

        using X509Certificate2 next = WriteCertificate();
        if (isAskedTo)
        {
            Assert.True(host.ReloadCertificates());
        }
        using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(30));
        string shown;
        do
        {
            using HttpClient fresh = Client(seen);
            (await fresh.GetAsync(url, patience.Token)).EnsureSuccessStatusCode();
            shown = seen[^1];
            Assert.True(shown == next.Thumbprint || !isAskedTo, "a new connection got the old certificate");
        }
        while (shown != next.Thumbprint);

        int handshakes = seen.Count;
        (await open.GetAsync(url, TestServer.Cancellation)).EnsureSuccessStatusCode();
        Assert.Equal(handshakes, seen.Count);       // over the connection that was there before
    }

    [Fact]
    public async Task Https_FilesThatCannotBeUsed_KeepTheCertificate()
    {
        await using CheckpointEngineHost host = await StartAsync();
        var seen = new List<string>();
        using HttpClient before = Client(seen);
        (await before.GetAsync(host.Addresses[0] + "/v1/metas", TestServer.Cancellation)).EnsureSuccessStatusCode();
        Write("server.pem", "hello");
        Assert.False(host.ReloadCertificates());
        using HttpClient after = Client(seen);
        (await after.GetAsync(host.Addresses[0] + "/v1/metas", TestServer.Cancellation)).EnsureSuccessStatusCode();
        Assert.Equal(seen[0], seen[1]);
    }

    [Fact]
    public async Task Https_ClientAuthorityReplaced_LetsInWhoIsOfTheNewOne()
    {
        await using CheckpointEngineHost host = await StartAsync(options => options.TlsClientCaFile = Write("ca.pem", _authority.Authority.ExportCertificatePem()));
        using X509Certificate2 theirs = _stranger.Issue(isClient: true);
        await Assert.ThrowsAsync<HttpRequestException>(() => GetAsync(host, theirs));
        Write("ca.pem", _authority.Authority.ExportCertificatePem() + "\n" + _stranger.Authority.ExportCertificatePem());
        Assert.True(host.ReloadCertificates());
        Assert.Equal(HttpStatusCode.OK, await GetAsync(host, theirs));
    }

    // A client of its own, which notes the certificate of each handshake.
    private static HttpClient Client(List<string> seen)
    {
        var handler = new SocketsHttpHandler { UseProxy = false };
        handler.SslOptions.RemoteCertificateValidationCallback = (_, certificate, _, _) =>
        {
            seen.Add(((X509Certificate2)certificate!).Thumbprint);
            return certificate.Subject == "CN=server";
        };
        return new HttpClient(handler);
    }

    private X509Certificate2 WriteCertificate()
    {
        X509Certificate2 certificate = _authority.Issue(isClient: false);
        Write("server.pem", certificate.ExportCertificatePem());
        Write("server.key", certificate.GetECDsaPrivateKey()!.ExportPkcs8PrivateKeyPem());
        return certificate;
    }

    private async Task<CheckpointEngineHost> StartAsync(Action<CheckpointEngineHostOptions>? configure = null)
    {
        WriteCertificate().Dispose();
        var options = new CheckpointEngineHostOptions
        {
            Listen = ["https://127.0.0.1:0"],
            TlsCertificateFile = Path.Join(_directory.FullName, "server.pem"),
            TlsKeyFile = Path.Join(_directory.FullName, "server.key"),
        };
        configure?.Invoke(options);
        return await CheckpointEngineHost.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks), new EncodedMetas(), options, TestServer.Cancellation);
    }

    private async Task<HttpStatusCode> GetAsync(CheckpointEngineHost host, X509Certificate2? client, string? token = null, SslProtocols protocols = SslProtocols.None)
    {
        using var handler = new SocketsHttpHandler { UseProxy = false };
        handler.SslOptions = new SslClientAuthenticationOptions
        {
            EnabledSslProtocols = protocols,
            CertificateChainPolicy = new X509ChainPolicy { TrustMode = X509ChainTrustMode.CustomRootTrust, RevocationMode = X509RevocationMode.NoCheck },
        };
        handler.SslOptions.CertificateChainPolicy.CustomTrustStore.Add(_authority.Authority);
        if (client is not null)
        {
            handler.SslOptions.ClientCertificates = [client];
            handler.SslOptions.LocalCertificateSelectionCallback = (_, _, _, _, _) => client;
        }
        using var http = new HttpClient(handler);
        using var request = new HttpRequestMessage(HttpMethod.Get, host.Addresses[0] + "/v1/metas");
        if (token is not null)
        {
            request.Headers.Authorization = new("Bearer", token);
        }
        using HttpResponseMessage reply = await http.SendAsync(request, TestServer.Cancellation);
        return reply.StatusCode;
    }

    private string Write(string name, string pem)
    {
        string path = Path.Join(_directory.FullName, name);
        File.WriteAllText(path, pem);
        return path;
    }
}
