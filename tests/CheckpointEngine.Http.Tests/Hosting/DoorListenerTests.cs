using System.Net;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Hosting;
using CheckpointEngine.Http.Tests.Support;
using Microsoft.AspNetCore.Connections;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Http.Tests.Hosting;

/// <summary>Who is let in to Kestrel, and who waits outside.</summary>
public sealed class DoorListenerTests
{
    private const string Request = "GET /v1/healthz HTTP/1.1\r\nHost: a\r\n\r\n";

    [Theory]
    [InlineData(Request, false)]
    [InlineData("GET /v1/healthz HTTP/1.1\r\n", false)]
    [InlineData("\r\n", false)]
    [InlineData("\u0016\u0003\u0001", false)]       // TLS where none is spoken: Kestrel says so
    [InlineData("\u0016", true)]
    [InlineData("GET", true)]
    public async Task Accept_AWordThatCanBeAnswered_LetsIn(string word, bool isTls)
    {
        await using Door door = await Door.OpenAsync(isTls: isTls);
        using Socket client = await door.ConnectAsync(word);
        await using ConnectionContext? context = await door.AcceptAsync();
        Assert.Equal(client.LocalEndPoint, context!.RemoteEndPoint);
        Assert.NotNull(context.Features.Get<ConnectionSlot>());
        Assert.Equal(word, Encoding.Latin1.GetString((await context.Transport.Input.ReadAtLeastAsync(word.Length, TestServer.Cancellation)).Buffer.FirstSpan));
    }

    [Fact]
    public async Task Accept_MoreThanFourKibWithoutALine_LetsIn()
    {
        await using Door door = await Door.OpenAsync();
        using Socket client = await door.ConnectAsync(new string('A', 8192));
        await using ConnectionContext? context = await door.AcceptAsync();
        Assert.NotNull(context);
    }

    [Fact]
    public async Task Accept_SilentAndHalfSaid_WaitOutside()
    {
        await using Door door = await Door.OpenAsync();
        using Socket silent = await door.ConnectAsync("");
        using Socket half = await door.ConnectAsync("GET");
        using Socket asker = await door.ConnectAsync(Request);
        await using ConnectionContext? first = await door.AcceptAsync();
        Assert.Equal(asker.LocalEndPoint, first!.RemoteEndPoint);
        Assert.Equal(3, door.Limiter.Count);

        await half.SendAsync(Encoding.ASCII.GetBytes(Request["GET".Length..]));
        await using ConnectionContext? second = await door.AcceptAsync();
        Assert.Equal(half.LocalEndPoint, second!.RemoteEndPoint);

        await silent.SendAsync(Encoding.ASCII.GetBytes(Request));
        await using ConnectionContext? third = await door.AcceptAsync();
        Assert.Equal(silent.LocalEndPoint, third!.RemoteEndPoint);
    }

    [Fact]
    public async Task Accept_ManyInParts_LetsEachInOnce()
    {
        const int Count = 200;
        await using Door door = await Door.OpenAsync(places: Count);
        var accepted = new HashSet<EndPoint>();
        Task accepting = Task.Run(async () =>
        {
            while (accepted.Count < Count)
            {
                ConnectionContext? context = await door.AcceptAsync();
                Assert.True(accepted.Add(context!.RemoteEndPoint!));
                await context.DisposeAsync();       // its socket is closed while the door may still look at who has begun
                context.Features.Get<ConnectionSlot>()!.Dispose();
            }
        }, TestServer.Cancellation);
        Socket[] clients = await Task.WhenAll(Enumerable.Range(0, Count).Select(i => door.ConnectAsync(i % 3 == 0 ? "" : "GE")));
        await Task.WhenAll(clients.Select((client, i) => client.SendAsync(Encoding.ASCII.GetBytes(i % 3 == 0 ? Request : Request["GE".Length..]))));
        await accepting;
        Assert.Equal(0, door.Limiter.Count);
        Array.ForEach(clients, client => client.Dispose());
    }

    [Theory]
    [InlineData("")]
    [InlineData("GET")]
    public async Task Full_WhoIsOutside_GivesWay(string word)
    {
        await using Door door = await Door.OpenAsync(places: 1);
        using Socket outside = await door.ConnectAsync(word);
        using Socket asker = await door.ConnectAsync(Request);
        await using ConnectionContext? context = await door.AcceptAsync();
        Assert.Equal(asker.LocalEndPoint, context!.RemoteEndPoint);
        Assert.True(await IsClosedAsync(outside));
        Assert.Equal(1, door.Limiter.DisplacedCount);
    }

    [Fact]
    public async Task Full_WhoHasAsked_GivesWayToNobodyUntilTheAnswer()
    {
        await using Door door = await Door.OpenAsync(places: 1);
        using Socket asker = await door.ConnectAsync(Request);
        await using ConnectionContext? context = await door.AcceptAsync();
        using Socket refused = await door.ConnectAsync(Request);
        Assert.True(await IsClosedAsync(refused));
        Assert.Equal(1, door.Limiter.RefusedCount);

        context!.Features.Get<KeptPlace>()!.Release();       // it has been answered, and waits for its peer
        using Socket next = await door.ConnectAsync(Request);
        await using ConnectionContext? second = await door.AcceptAsync();
        Assert.Equal(next.LocalEndPoint, second!.RemoteEndPoint);
        Assert.True(context.ConnectionClosed.WaitHandle.WaitOne(TimeSpan.FromSeconds(20)));
    }

    [Fact]
    public async Task Full_ALineAlone_KeepsNoPlace()
    {
        await using Door door = await Door.OpenAsync(places: 1);
        using Socket drip = await door.ConnectAsync("GET / HTTP/1.1\r\n");
        await using ConnectionContext? first = await door.AcceptAsync();
        Assert.Null(first!.Features.Get<KeptPlace>());
        using Socket asker = await door.ConnectAsync(Request);
        await using ConnectionContext? second = await door.AcceptAsync();
        Assert.Equal(asker.LocalEndPoint, second!.RemoteEndPoint);
    }

    [Fact]
    public async Task Gone_BeforeAWord_GivesItsPlaceBack()
    {
        await using Door door = await Door.OpenAsync();
        (await door.ConnectAsync("")).Dispose();
        await door.WaitForCountAsync(0);
    }

    [Fact]
    public async Task Accept_HalfAWordAndTheEnd_LetsIn()
    {
        await using Door door = await Door.OpenAsync();
        using Socket half = await door.ConnectAsync("GET");
        half.Shutdown(SocketShutdown.Send);
        await using ConnectionContext? context = await door.AcceptAsync();
        Assert.Equal(half.LocalEndPoint, context!.RemoteEndPoint);
    }

    [Fact]
    public async Task Head_ThatDoesNotGoOn_IsClosedAfterItsTimeout()
    {
        await using Door door = await Door.OpenAsync(headTimeout: TimeSpan.FromMilliseconds(200));
        using Socket half = await door.ConnectAsync("GET");
        Assert.True(await IsClosedAsync(half));
        await door.WaitForCountAsync(0);
    }

    [Fact]
    public async Task Unbind_ClosesWhoWaitsAndEndsAccepting()
    {
        await using Door door = await Door.OpenAsync();
        using Socket silent = await door.ConnectAsync("");
        using Socket half = await door.ConnectAsync("GET");
        await door.WaitForCountAsync(2);
        Task<ConnectionContext?> accepting = door.AcceptAsync();
        await door.Listener.UnbindAsync(TestServer.Cancellation);
        Assert.Null(await accepting);
        Assert.True(await IsClosedAsync(silent));
        Assert.True(await IsClosedAsync(half));
        Assert.Equal(0, door.Limiter.Count);
        await Assert.ThrowsAsync<SocketException>(() => door.ConnectAsync(""));
    }

    private static async Task<bool> IsClosedAsync(Socket socket)
    {
        byte[] one = new byte[1];
        try
        {
            return await socket.ReceiveAsync(one, TestServer.Cancellation) == 0;
        }
        catch (SocketException)
        {
            return true;        // reset
        }
    }

    private sealed class Door(DoorListener listener, ConnectionLimiter limiter) : IAsyncDisposable
    {
        internal DoorListener Listener => listener;

        internal ConnectionLimiter Limiter => limiter;

        internal static async Task<Door> OpenAsync(int places = 100, bool isTls = false, TimeSpan? headTimeout = null)
        {
            var limiter = new ConnectionLimiter("http", new ConnectionLimits(places, places), NullLogger.Instance);
            var factory = new DoorListenerFactory(limiter, _ => isTls, headTimeout ?? TimeSpan.FromSeconds(60), NullLoggerFactory.Instance);
            return new Door((DoorListener)await factory.BindAsync(new IPEndPoint(IPAddress.Loopback, 0), TestServer.Cancellation), limiter);
        }

        internal async Task<Socket> ConnectAsync(string word)
        {
            var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            try
            {
                await socket.ConnectAsync(listener.EndPoint, TestServer.Cancellation);
                await socket.SendAsync(Encoding.Latin1.GetBytes(word), TestServer.Cancellation);
                return socket;
            }
            catch
            {
                socket.Dispose();
                throw;
            }
        }

        internal Task<ConnectionContext?> AcceptAsync() => listener.AcceptAsync(TestServer.Cancellation).AsTask();

        internal async Task WaitForCountAsync(int count)
        {
            while (limiter.Count != count)
            {
                TestServer.Cancellation.ThrowIfCancellationRequested();
                await Task.Yield();
            }
        }

        public ValueTask DisposeAsync() => listener.DisposeAsync();
    }
}
