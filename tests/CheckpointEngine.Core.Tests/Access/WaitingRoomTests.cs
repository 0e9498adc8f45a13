using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Access;

namespace CheckpointEngine.Tests;

/// <summary>Who stays outside until it says something, who is closed there, and what becomes of places.</summary>
public sealed class WaitingRoomTests : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(5);

    private readonly RecordedLog _log = new();
    private readonly ManualTimeProvider _clock = new();
    private readonly Socket _listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
    private readonly ConcurrentQueue<(Socket Socket, ConnectionSlot Slot)> _heard = new();

    public WaitingRoomTests()
    {
        _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listener.Listen();
    }

    public void Dispose()
    {
        _listener.Dispose();
        foreach ((Socket socket, ConnectionSlot slot) in _heard)
        {
            socket.Dispose();
            slot.Dispose();
        }
        _log.Dispose();
    }

    [Fact]
    public async Task Enter_Full_TheOneThatWasSilentLongestGivesWay()
    {
        ConnectionLimiter limiter = Limiter(2);
        using WaitingRoom room = Room(limiter);
        using RawClient first = await EnterAsync(room);
        using RawClient second = await EnterAsync(room);
        using RawClient third = await EnterAsync(room);

        Assert.Empty(await first.ReadToEndAsync());
        Assert.Equal((2, 2, 1L), (room.Count, limiter.Count, limiter.DisplacedCount));
        Assert.Empty(_heard);
    }

    [Fact]
    public async Task Byte_IsHandedOverUnreadWithItsPlace()
    {
        ConnectionLimiter limiter = Limiter(2);
        using WaitingRoom room = Room(limiter);
        using RawClient client = await EnterAsync(room);
        await client.SendAsync("word"u8.ToArray());

        (Socket socket, ConnectionSlot slot) = await HeardAsync();
        byte[] word = new byte[8];
        Assert.Equal("word", Encoding.ASCII.GetString(word, 0, await socket.ReceiveAsync(word, TestContext.Current.CancellationToken)));
        Assert.Equal((0, 1), (room.Count, limiter.Count));
        slot.Dispose();
        Assert.Equal(0, limiter.Count);
    }

    [Fact]
    public async Task Byte_ThatIsThereBefore_IsHandedOver()
    {
        using WaitingRoom room = Room(Limiter(2));
        using RawClient client = await RawClient.ConnectAsync((IPEndPoint)_listener.LocalEndPoint!);
        await client.SendAsync("word"u8.ToArray());
        Socket socket = await _listener.AcceptAsync(TestContext.Current.CancellationToken);
        await HandshakeListenerTests.UntilAsync(() => socket.Available == 4);

        Assert.True(room.TryEnter(socket));
        Assert.Same(socket, (await HeardAsync()).Socket);
    }

    [Fact]
    public async Task End_WithoutAByte_GivesThePlaceBack()
    {
        ConnectionLimiter limiter = Limiter(2);
        using WaitingRoom room = Room(limiter);
        using RawClient client = await EnterAsync(room);
        client.HalfClose();

        Assert.Empty(await client.ReadToEndAsync());
        await HandshakeListenerTests.UntilAsync(() => limiter.Count == 0);
        Assert.Equal(0, room.Count);
        Assert.Empty(_heard);
    }

    [Fact]
    public async Task Silence_LongerThanThePatience_IsClosedEachInItsTurn()
    {
        ConnectionLimiter limiter = Limiter(4);
        using WaitingRoom room = Room(limiter);
        using RawClient first = await EnterAsync(room);
        _clock.Advance(TimeSpan.FromSeconds(3));
        using RawClient second = await EnterAsync(room);

        _clock.Advance(TimeSpan.FromSeconds(2));
        Assert.Empty(await first.ReadToEndAsync());
        Assert.Equal((1, 1), (room.Count, limiter.Count));
        _clock.Advance(TimeSpan.FromSeconds(2));
        Assert.Equal(1, room.Count);
        _clock.Advance(TimeSpan.FromSeconds(2));
        Assert.Empty(await second.ReadToEndAsync());
        Assert.Equal((0, 0), (room.Count, limiter.Count));
    }

    [Fact]
    public async Task PartOfAWord_WaitsForTheRest()
    {
        using WaitingRoom room = Room(Limiter(2));
        using RawClient client = await EnterAsync(room);
        await client.SendAsync("wo"u8.ToArray());
        await HandshakeListenerTests.UntilAsync(() => _clock.PendingTimers == 2);
        _clock.Advance(TimeSpan.FromMilliseconds(2));
        Assert.Equal((1, 0), (room.Count, _heard.Count));

        await client.SendAsync("rd"u8.ToArray());
        (Socket socket, _) = await HeardAsync(tick: true);
        Assert.Equal((0, 4), (room.Count, socket.Available));
    }

    [Fact]
    public async Task PartOfAWord_AndTheEnd_IsHandedOver()
    {
        using WaitingRoom room = Room(Limiter(2));
        using RawClient client = await EnterAsync(room);
        await client.SendAsync("wo"u8.ToArray());
        client.HalfClose();

        Assert.Equal(2, (await HeardAsync(tick: true)).Socket.Available);
    }

    [Fact]
    public async Task PartOfAWord_LongerThanThePatience_IsClosed()
    {
        ConnectionLimiter limiter = Limiter(2);
        using WaitingRoom room = Room(limiter);
        using RawClient client = await EnterAsync(room);
        await client.SendAsync("wo"u8.ToArray());
        await HandshakeListenerTests.UntilAsync(() => _clock.PendingTimers == 2);
        _clock.Advance(s_patience);

        Assert.Empty(await client.ReadToEndAsync());
        Assert.Equal((0, 0), (room.Count, limiter.Count));
        Assert.Empty(_heard);
    }

    [Fact]
    public async Task Displaced_AfterItsFirstWord_IsClosedUnderItsNewOwner()
    {
        ConnectionLimiter limiter = Limiter(1);
        using WaitingRoom room = Room(limiter);
        using RawClient client = await EnterAsync(room);
        await client.SendAsync("word"u8.ToArray());
        (Socket socket, _) = await HeardAsync();
        using RawClient newcomer = await EnterAsync(room);

        Assert.Empty(await client.ReadToEndAsync());
        Assert.Throws<ObjectDisposedException>(() => socket.Available);
        Assert.Equal((1, 1), (room.Count, limiter.Count));
    }

    [Fact]
    public async Task Enter_NoPlaceAtAll_LeavesTheSocketToItsOwner()
    {
        ConnectionLimiter limiter = Limiter(1);
        using WaitingRoom room = Room(limiter);
        using RawClient client = await EnterAsync(room);
        await client.SendAsync("word"u8.ToArray());
        (await HeardAsync()).Slot.BeginUse();

        using RawClient other = await RawClient.ConnectAsync((IPEndPoint)_listener.LocalEndPoint!);
        using Socket socket = await _listener.AcceptAsync(TestContext.Current.CancellationToken);
        Assert.False(room.TryEnter(socket));
        Assert.Equal(0, socket.Available);      // open
    }

    [Fact]
    public async Task Dispose_ClosesAllThatWait_AndWhoComesLater()
    {
        ConnectionLimiter limiter = Limiter(8);
        WaitingRoom room = Room(limiter);
        using RawClient first = await EnterAsync(room);
        using RawClient second = await EnterAsync(room);
        room.Dispose();
        using RawClient late = await EnterAsync(room);
        room.Dispose();

        foreach (RawClient client in (RawClient[])[first, second, late])
        {
            Assert.Empty(await client.ReadToEndAsync());
        }
        Assert.Equal((0, 0), (room.Count, limiter.Count));
        Assert.Empty(_heard);
    }

    [Fact]
    public async Task ManyAtOnce_WordsEndsAndNewcomers_LoseNoPlace()
    {
        const int Clients = 400;
        ConnectionLimiter limiter = Limiter(32);
        using WaitingRoom room = Room(limiter);
        var clients = new List<RawClient>();
        for (int i = 0; i < Clients; i++)
        {
            RawClient client = await EnterAsync(room);
            clients.Add(client);
            if (i % 3 == 0)
            {
                await client.SendAsync(new byte[i % 2 == 0 ? 4 : 1]);
            }
            else if (i % 3 == 1)
            {
                client.HalfClose();
            }
        }
        clients.ForEach(client => client.Dispose());
        await HandshakeListenerTests.UntilAsync(() =>
        {
            _clock.Advance(TimeSpan.FromMilliseconds(2));
            return room.Count == 0;
        });
        while (_heard.TryDequeue(out (Socket Socket, ConnectionSlot Slot) heard))
        {
            heard.Socket.Dispose();
            heard.Slot.Dispose();
        }
        await HandshakeListenerTests.UntilAsync(() => limiter.Count == 0);
    }

    private ConnectionLimiter Limiter(int places) => new("test", new ConnectionLimits(places, places, 0), _log.CreateLogger("limits"), _clock);

    private WaitingRoom Room(ConnectionLimiter limiter) => new(limiter, wordBytes: 4, s_patience, _clock, (socket, slot) => _heard.Enqueue((socket, slot)));

    private async Task<RawClient> EnterAsync(WaitingRoom room)
    {
        RawClient client = await RawClient.ConnectAsync((IPEndPoint)_listener.LocalEndPoint!);
        Assert.True(room.TryEnter(await _listener.AcceptAsync(TestContext.Current.CancellationToken)));
        return client;
    }

    private async Task<(Socket Socket, ConnectionSlot Slot)> HeardAsync(bool tick = false)
    {
        await HandshakeListenerTests.UntilAsync(() =>
        {
            _clock.Advance(TimeSpan.FromMilliseconds(tick ? 2 : 0));
            return !_heard.IsEmpty;
        });
        return _heard.First();
    }
}
