using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Tests.Support;

namespace CheckpointEngine.Http.Tests.Hosting;

/// <summary>Clients that come in numbers, or say nothing.</summary>
public sealed class LimitTests
{
    [Fact]
    public async Task Connections_ThatAreSilent_GiveWayToThoseThatAsk()
    {
        await using TestServer server = await TestServer.StartAsync(configure: options => options.Limits = new ConnectionLimits(4, 4));
        var silent = new List<TcpClient>();
        try
        {
            for (int i = 0; i < 50; i++)
            {
                TcpClient client = new();
                silent.Add(client);
                await client.ConnectAsync(IPAddress.Loopback, server.Uri.Port, TestServer.Cancellation);
                await client.GetStream().WriteAsync(Encoding.ASCII.GetBytes(i % 2 == 0 ? "" : "GET /v1/metas HTTP/1.1\r\nX-Half:"), TestServer.Cancellation);
                if (i % 10 == 0)
                {
                    Assert.StartsWith("HTTP/1.1 200", await server.SendRawAsync("GET /v1/healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), StringComparison.Ordinal);
                }
            }
            Assert.Equal(0, await EndOf(silent[0]));
        }
        finally
        {
            silent.ForEach(client => client.Dispose());
        }
    }

    [Fact]
    public async Task Connections_WithARequestUnderWay_GiveWayToNobody()
    {
        FakeStore store = new FakeStore().Publish("m", Samples.TwoRanks);
        await using TestServer server = await TestServer.StartAsync(store, options => options.Limits = new ConnectionLimits(2, 2));
        using HttpResponseMessage first = await server.GetAsync("/v1/metas");
        string tag = first.Headers.ETag!.Tag;
        using var waiter = new HttpClient(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = server.Uri };
        using var request = new HttpRequestMessage(HttpMethod.Get, "/v1/metas?wait=20");
        request.Headers.TryAddWithoutValidation("If-None-Match", tag);
        Task<HttpResponseMessage> following = waiter.SendAsync(request, TestServer.Cancellation);
        for (int i = 0; i < 10; i++)
        {
            Assert.StartsWith("HTTP/1.1 200", await server.SendRawAsync("GET /v1/healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), StringComparison.Ordinal);
        }
        Assert.False(following.IsCompleted);
        store.Publish("m", Samples.TwoRanks);
        using HttpResponseMessage next = await following;
        Assert.True(next.StatusCode is HttpStatusCode.OK or HttpStatusCode.NotModified);
    }

    [Fact]
    public async Task Head_ThatDripsForEver_IsCutAfterItsTimeout()
    {
        await using TestServer server = await TestServer.StartAsync(configure: options => options.RequestHeadTimeout = TimeSpan.FromSeconds(1));
        using var client = new TcpClient();
        await client.ConnectAsync(IPAddress.Loopback, server.Uri.Port, TestServer.Cancellation);
        NetworkStream stream = client.GetStream();
        await stream.WriteAsync("GET /v1/healthz HTTP/1.1\r\nX-Slow: "u8.ToArray(), TestServer.Cancellation);
        Task<int> end = EndOf(client);
        long start = Stopwatch.GetTimestamp();
        using var drip = new PeriodicTimer(TimeSpan.FromMilliseconds(50));
        while (!end.IsCompleted && await drip.WaitForNextTickAsync(TestServer.Cancellation))
        {
            try
            {
                await stream.WriteAsync("x"u8.ToArray(), TestServer.Cancellation);
            }
            catch (IOException)
            {
                break;      // cut
            }
        }
        Assert.InRange(Stopwatch.GetElapsedTime(start), TimeSpan.FromMilliseconds(500), TimeSpan.FromSeconds(20));
    }

    [Fact]
    public async Task Requests_AboveTheRate_AreRefusedButHealthIsAnswered()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks), options => options.Limits = new ConnectionLimits(100, 100, 1));
        HttpResponseMessage[] replies = await Task.WhenAll(Enumerable.Range(0, 12).Select(_ => server.GetAsync("/v1/metas")));
        Assert.Contains(replies, reply => reply.StatusCode == HttpStatusCode.OK);
        HttpResponseMessage refused = replies.First(reply => reply.StatusCode == HttpStatusCode.TooManyRequests);
        Assert.Equal("application/problem+json", refused.Content.Headers.ContentType!.MediaType);
        Assert.NotNull(refused.Headers.RetryAfter);
        foreach (HttpResponseMessage reply in replies)
        {
            Assert.True(reply.StatusCode is HttpStatusCode.OK or HttpStatusCode.TooManyRequests);
            reply.Dispose();
        }
        using HttpResponseMessage health = await server.GetAsync("/v1/healthz");
        Assert.Equal(HttpStatusCode.OK, health.StatusCode);
    }

    private static async Task<int> EndOf(TcpClient client)
    {
        byte[] bytes = new byte[1024];
        try
        {
            int read;
            do
            {
                read = await client.GetStream().ReadAsync(bytes, TestServer.Cancellation);
            }
            while (read > 0);
            return 0;
        }
        catch (IOException)
        {
            return 0;       // reset
        }
    }
}
