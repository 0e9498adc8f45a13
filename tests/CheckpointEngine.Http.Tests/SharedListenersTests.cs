using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Http.Hosting;

namespace CheckpointEngine.Http.Tests;

/// <summary>Several descriptors of one listening socket.</summary>
public sealed class SharedListenersTests
{
    [Fact]
    public async Task Bind_OneEndPointTwice_BothTakeFromOneQueueAndEitherMayGoFirst()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "descriptors are duplicated by fcntl(2) of Linux");
        var listeners = new SharedListeners();
        var endPoint = new IPEndPoint(IPAddress.Loopback, 0);
        using Socket first = listeners.Bind(endPoint);
        using Socket second = listeners.Bind(endPoint);
        first.Listen();
        second.Listen();        // which the queue is not asked for twice: it is how this object learns of it
        Assert.Equal(first.LocalEndPoint, second.LocalEndPoint);

        using Socket one = await ConnectAsync(first.LocalEndPoint!);
        using Socket two = await ConnectAsync(first.LocalEndPoint!);
        using Socket ofFirst = await first.AcceptAsync(TestContext.Current.CancellationToken);
        using Socket ofSecond = await second.AcceptAsync(TestContext.Current.CancellationToken);
        Assert.Equal([one.LocalEndPoint, two.LocalEndPoint], [ofFirst.RemoteEndPoint, ofSecond.RemoteEndPoint]);

        EndPoint address = first.LocalEndPoint!;
        first.Dispose();
        using Socket three = await ConnectAsync(address);
        using Socket accepted = await second.AcceptAsync(TestContext.Current.CancellationToken);
        Assert.Equal(three.LocalEndPoint, accepted.RemoteEndPoint);
    }

    [Fact]
    public void Bind_AnEqualEndPointThatIsAnotherObject_IsAnAddressOfItsOwn()
    {
        var listeners = new SharedListeners();
        using Socket one = listeners.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        using Socket two = listeners.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        Assert.NotEqual(one.LocalEndPoint, two.LocalEndPoint);
    }

    private static async Task<Socket> ConnectAsync(EndPoint address)
    {
        var socket = new Socket(SocketType.Stream, ProtocolType.Tcp);
        await socket.ConnectAsync(address, TestContext.Current.CancellationToken);
        return socket;
    }
}
