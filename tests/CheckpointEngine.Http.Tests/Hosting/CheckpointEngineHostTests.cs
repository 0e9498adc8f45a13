using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Replies;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Http.Tests.Hosting;

public sealed class CheckpointEngineHostTests : IDisposable
{
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("ce-host-");

    private string SocketPath => Path.Join(_directory.FullName, "ce.sock");

    public void Dispose() => _directory.Delete(recursive: true);

    [Fact]
    public async Task Start_AtSeveralAddresses_TellsTheRealOnes()
    {
        await using CheckpointEngineHost host = await StartAsync("http://127.0.0.1:0", "http://localhost:0", "unix:" + SocketPath);
        Assert.Equal(3, host.Addresses.Count);
        Assert.Matches("^http://127\\.0\\.0\\.1:[1-9][0-9]+$", host.Addresses[0]);
        Assert.Matches("^http://localhost:[1-9][0-9]+$", host.Addresses[1]);
        Assert.Equal("unix:" + SocketPath, host.Addresses[2]);
        using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false });
        foreach (string address in host.Addresses.Take(2))
        {
            using HttpResponseMessage reply = await client.GetAsync(address + "/v1/healthz", TestServer.Cancellation);
            await reply.AssertEmptyOkAsync();
        }
    }

    [Fact]
    public async Task Start_AtAnIPv6Address_TellsItInBrackets()
    {
        if (!HasIPv6Loopback())
        {
            Assert.Skip("this host has no ::1");
        }
        await using CheckpointEngineHost host = await StartAsync("http://[::1]:0");
        Assert.Matches("^http://\\[::1\\]:[1-9][0-9]+$", Assert.Single(host.Addresses));
        using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false });
        using HttpResponseMessage reply = await client.GetAsync(host.Addresses[0] + "/v1/healthz", TestServer.Cancellation);
        await reply.AssertEmptyOkAsync();
    }

    [Theory]
    [InlineData("http://0.0.0.0:0")]
    [InlineData("http://[::]:0")]
    [InlineData("http://*:0")]
    [InlineData("https://0.0.0.0:0")]
    public async Task Start_AtAReachableAddressWithoutProtection_IsRefusedBeforeAnythingListens(string address)
    {
        CheckpointEngineException refused = await Assert.ThrowsAsync<CheckpointEngineException>(() => StartAsync("unix:" + SocketPath, address));
        Assert.Equal(CheckpointError.Refused, refused.Error);
        Assert.All(["--token-file", "--tls-client-ca", "--insecure"], flag => Assert.Contains(flag, refused.Message, StringComparison.Ordinal));
        Assert.False(Path.Exists(SocketPath));
    }

    [Fact]
    public async Task Start_AtAReachablePlainAddressWithOnlyAClientCa_IsRefused()
    {
        var options = new CheckpointEngineHostOptions { Listen = ["http://0.0.0.0:0"], TlsClientCaFile = "ca.pem" };
        CheckpointEngineException refused = await Assert.ThrowsAsync<CheckpointEngineException>(() => StartAsync(options));
        Assert.Equal(CheckpointError.Refused, refused.Error);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Start_AtAReachableAddressWithATokenOrInsecure_Listens(bool hasToken)
    {
        var options = new CheckpointEngineHostOptions { Listen = ["http://*:0"], Insecure = !hasToken, Token = hasToken ? AccessToken.FromText("t") : null };
        await using CheckpointEngineHost host = await StartAsync(options);
        using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false });
        using HttpResponseMessage reply = await client.GetAsync($"http://127.0.0.1:{new Uri(host.Addresses[0]).Port}/v1/healthz", TestServer.Cancellation);
        await reply.AssertEmptyOkAsync();
    }

    [Theory]
    [InlineData("")]
    [InlineData("127.0.0.1:80")]
    [InlineData("ftp://127.0.0.1:80")]
    [InlineData("http://127.0.0.1:80/path")]
    [InlineData("http://user@127.0.0.1:80")]
    [InlineData("http://127.0.0.1:99999")]
    [InlineData("unix:")]
    [InlineData("unix:/a-path-that-is-much-longer-than-the-hundred-and-seven-bytes-that-a-unix-socket-address-has-room-for-on-linux.sock")]
    [InlineData("https://127.0.0.1:0")]
    public async Task Start_AtNoAddress_IsAnArgumentException(string address)
        => await Assert.ThrowsAsync<ArgumentException>(() => StartAsync(address));

    [Fact]
    public async Task Start_AtAnAddressInUse_SaysSo()
    {
        await using CheckpointEngineHost first = await StartAsync("http://127.0.0.1:0");
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => StartAsync(first.Addresses[0]));
        Assert.Equal(CheckpointError.Io, failure.Error);
        Assert.Contains("in use", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task UnixSocket_IsItsOwnersAloneAnswersAndIsRemovedAtStop()
    {
        await using CheckpointEngineHost host = await StartAsync("unix:" + SocketPath);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(SocketPath));
        using (HttpClient client = Connect(SocketPath))
        using (HttpResponseMessage reply = await client.GetAsync("http://x/v1/metas", TestServer.Cancellation))
        {
            await reply.AssertProblemAsync(HttpStatusCode.NotFound);
        }
        await host.StopAsync(TestServer.Cancellation);
        Assert.False(Path.Exists(SocketPath));
    }

    [Fact]
    public async Task UnixSocket_OfADeadServer_IsReplaced()
    {
        using (var dead = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            // Bound under another name, so that the file outlives its socket as it does when a server is killed.
            string other = Path.Join(_directory.FullName, "other.sock");
            dead.Bind(new UnixDomainSocketEndPoint(other));
            File.Move(other, SocketPath);
        }
        Assert.True(Path.Exists(SocketPath));
        await using CheckpointEngineHost host = await StartAsync("unix:" + SocketPath);
        using HttpClient client = Connect(SocketPath);
        using HttpResponseMessage reply = await client.GetAsync("http://x/v1/healthz", TestServer.Cancellation);
        await reply.AssertEmptyOkAsync();
    }

    [Fact]
    public async Task UnixSocket_OfALiveServer_IsLeftAlone()
    {
        await using CheckpointEngineHost first = await StartAsync("unix:" + SocketPath);
        CheckpointEngineException refused = await Assert.ThrowsAsync<CheckpointEngineException>(() => StartAsync("unix:" + SocketPath));
        Assert.Equal(CheckpointError.AlreadyExists, refused.Error);
        using HttpClient client = Connect(SocketPath);
        using HttpResponseMessage reply = await client.GetAsync("http://x/v1/healthz", TestServer.Cancellation);
        await reply.AssertEmptyOkAsync();
    }

    [Fact]
    public async Task UnixSocket_WhereAFileIs_IsRefusedAndTheFileStays()
    {
        await File.WriteAllTextAsync(SocketPath, "", TestServer.Cancellation);
        CheckpointEngineException refused = await Assert.ThrowsAsync<CheckpointEngineException>(() => StartAsync("unix:" + SocketPath));
        Assert.Equal(CheckpointError.AlreadyExists, refused.Error);
        Assert.True(File.Exists(SocketPath));
    }

    [Fact]
    public async Task UnixSocket_WithATokenSet_DemandsIt()
    {
        await using CheckpointEngineHost host = await StartAsync(new CheckpointEngineHostOptions { Listen = ["unix:" + SocketPath], Token = AccessToken.FromText("t") });
        using HttpClient client = Connect(SocketPath);
        using HttpResponseMessage reply = await client.GetAsync("http://x/v1/metas", TestServer.Cancellation);
        await reply.AssertProblemAsync(HttpStatusCode.Unauthorized);
    }

    [Fact]
    public async Task Stop_WithARequestUnderWay_LetsItEnd()
    {
        File.WriteAllText(Path.Join(_directory.FullName, "m.safetensors"), "");
        await using TestServer server = await TestServer.StartAsync(null, options => options.AllowPaths = [_directory.FullName]);
        var begun = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var release = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        server.Store.OnRegister = _ =>
        {
            begun.SetResult();
            return release.Task;
        };
        Task<HttpResponseMessage> request = server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/files", new StringContent($$"""{"files":["{{_directory.FullName}}/m.safetensors"]}"""));
        await begun.Task.WaitAsync(TestServer.Cancellation);
        Task stop = server.Host.StopAsync(TestServer.Cancellation);
        Assert.False(stop.IsCompleted);
        release.SetResult();
        using HttpResponseMessage reply = await request;
        await reply.AssertEmptyOkAsync();
        await stop;
        await Assert.ThrowsAsync<HttpRequestException>(() => server.GetAsync("/v1/healthz"));
    }

    private static Task<CheckpointEngineHost> StartAsync(params string[] listen) => StartAsync(new CheckpointEngineHostOptions { Listen = listen });

    private static Task<CheckpointEngineHost> StartAsync(CheckpointEngineHostOptions options)
        => CheckpointEngineHost.StartAsync(new FakeStore(), new EncodedMetas(), options, TestServer.Cancellation);

    private static HttpClient Connect(string path) => new(new SocketsHttpHandler
    {
        ConnectCallback = async (_, cancellation) =>
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancellation);
            return new NetworkStream(socket, ownsSocket: true);
        },
    });

    private static bool HasIPv6Loopback()
    {
        try
        {
            using var socket = new Socket(AddressFamily.InterNetworkV6, SocketType.Stream, ProtocolType.Tcp);
            socket.Bind(new IPEndPoint(IPAddress.IPv6Loopback, 0));
            return true;
        }
        catch (SocketException)
        {
            return false;
        }
    }
}
