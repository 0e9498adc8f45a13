using System.Net;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>What a supervisor sees of a holder: the words of sd_notify(3), and readiness over HTTP.</summary>
public sealed class ServiceTests
{
    [Fact]
    public async Task Serve_UnderAServiceManager_SaysReadyWhenItAnswersAndStoppingWhenItIsTold()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        using var manager = new Socket(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        manager.Bind(new UnixDomainSocketEndPoint(temp["notify"]));
        await using Holder holder = await Holder.StartAsync(new Dictionary<string, string> { ["NOTIFY_SOCKET"] = temp["notify"] },
            "serve", "--checkpoint", "m=" + temp["model"], "--listen", "http://127.0.0.1:0", "--json");

        Assert.Equal(["READY=1", "STATUS=holding 1 checkpoint"], await NextAsync(manager));
        using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false });
        using HttpResponseMessage ready = await client.GetAsync(holder.Http + "/v1/readyz", TestContext.Current.CancellationToken);
        Assert.Equal(HttpStatusCode.OK, ready.StatusCode);
        holder.Engine.Signal(Engine.SigTerm);
        Assert.Equal("STOPPING=1", (await NextAsync(manager))[0]);
        (await holder.Engine.EndAsync()).Succeeded();
    }

    [Fact]
    public async Task Serve_WhoseServiceManagerIsGone_ServesAndWarns()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.StartAsync(new Dictionary<string, string> { ["NOTIFY_SOCKET"] = temp["nobody"] },
            "serve", "--checkpoint", "m=" + temp["model"], "--listen", "http://127.0.0.1:0", "--json");

        holder.Engine.Signal(Engine.SigTerm);

        Outcome end = (await holder.Engine.EndAsync()).Succeeded();
        Assert.Contains("checkpoint-engine: warning: the service manager cannot be told its state", end.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Ready_WhileItGathers_Is503()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        // A peer that takes connections and never answers, so that the gathering lasts as long as the test looks.
        using var silent = new TcpListener(IPAddress.Loopback, 0);
        silent.Start();
        string socket = temp["ce.sock"];
        await using Engine engine = Engine.Start("serve", "--checkpoint", "m=" + temp["model"], "--listen", "unix:" + socket, "--peers", $"http://{silent.LocalEndpoint}", "--gather", "--json");
        using TcpClient asked = await silent.AcceptTcpClientAsync(TestContext.Current.CancellationToken);       // from here on it gathers, and answers itself
        using var client = new HttpClient(new SocketsHttpHandler
        {
            ConnectCallback = async (_, cancellation) =>
            {
                var unix = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await unix.ConnectAsync(new UnixDomainSocketEndPoint(socket), cancellation);
                return new NetworkStream(unix, ownsSocket: true);
            },
        });

        using HttpResponseMessage ready = await client.GetAsync(new Uri("http://x/v1/readyz"), TestContext.Current.CancellationToken);

        Assert.Equal(HttpStatusCode.ServiceUnavailable, ready.StatusCode);
        Assert.Contains("gathers", await ready.Content.ReadAsStringAsync(TestContext.Current.CancellationToken), StringComparison.Ordinal);
    }

    private static async Task<string[]> NextAsync(Socket manager)
    {
        byte[] word = new byte[512];
        int length = await manager.ReceiveAsync(word, TestContext.Current.CancellationToken).AsTask().WaitAsync(Engine.Patience);
        return Encoding.UTF8.GetString(word, 0, length).Split('\n', StringSplitOptions.RemoveEmptyEntries);
    }
}
