using System.Net;
using System.Net.NetworkInformation;
using System.Net.Sockets;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Tests;

/// <summary>Sending without the kernel's copy: the bytes, and how long the memory counts as being read.</summary>
public sealed class TcpZeroCopyTests
{
    private const int UnitBytes = 4 << 20;

    // Fits into what the kernel takes at once for a connection that stays on the host.
    private const int WaitingBytes = 256 << 10;

    private static readonly TcpDataListenerOptions s_always = new() { ZeroCopy = ZeroCopyMode.Always };

    [Fact]
    public async Task Lane_OverAnAddressThatIsNotTheLoopback_ReadsTheSameBytes()
    {
        IPAddress address = OwnAddress();
        await using var port = new DataPort(s_always, address);
        using var memory = new TestMemory(port.Registry, 4 * UnitBytes, TestMemory.OfTarget);
        await Task.Factory.StartNew(() => ReadAndCompare(port.EndPoint, memory, units: 32), TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 0);
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(10)));
    }

    [Fact]
    public async Task Connection_ThatStaysOnThisHost_IsNotSentToWithoutACopy()
    {
        foreach (IPAddress address in new[] { IPAddress.Loopback, OwnAddress() })
        {
            await using var port = new DataPort(address: address);
            using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
            using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
            await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 1);
            Assert.False(port.Listener.Snapshot()[0].IsZeroCopy);
        }
    }

    [Fact]
    public async Task Range_WhoseBytesWaitInTheKernel_DrainsWhenThePeerHasTakenThem()
    {
        await using var port = new DataPort(s_always);
        using var memory = new TestMemory(port.Registry, WaitingBytes, TestMemory.OfTarget);
        using Socket peer = await AskAndWaitAsync(port, memory);
        Assert.False(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.Zero));
        Assert.NotNull(port.Listener.Snapshot()[0].BusySince);

        byte[] taken = new byte[WaitingBytes];
        await ReadExactlyAsync(peer, taken);
        Assert.Equal(memory.Bytes(0, WaitingBytes), taken);
        await memory.Range.Drained.WaitAsync(TimeSpan.FromSeconds(10), TestContext.Current.CancellationToken);
        await TcpDataListenerHostileTests.Until(() => port.Listener.Snapshot()[0].BusySince is null);
    }

    [Fact]
    public async Task Range_WhoseBytesWereCopied_DrainsBeforeThePeerHasTakenThem()
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, WaitingBytes, TestMemory.OfTarget);
        using Socket peer = Ask(port, memory);
        Assert.Equal(1, peer.Receive(new byte[1]));
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(10)));
    }

    [Fact]
    public async Task Range_WhoseBytesWaitInTheKernel_DrainsOnceItsReadersAreCut()
    {
        await using var port = new DataPort(s_always);
        using var memory = new TestMemory(port.Registry, WaitingBytes, TestMemory.OfTarget);
        using Socket peer = await AskAndWaitAsync(port, memory);
        Assert.False(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.Zero));
        port.Listener.CutReadersOf(memory.Range);
        await memory.Range.Drained.WaitAsync(TimeSpan.FromSeconds(10), TestContext.Current.CancellationToken);
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 0);
    }

    [Fact]
    public async Task Peer_ThatTakesNothingOfWhatWaitsInTheKernel_IsCutAfterTheStallTimeout()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { ZeroCopy = ZeroCopyMode.Always, StallTimeout = TimeSpan.FromMilliseconds(300) });
        using var memory = new TestMemory(port.Registry, WaitingBytes, TestMemory.OfTarget);
        using Socket peer = await AskAndWaitAsync(port, memory);
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 0);
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(10)));
    }

    [Fact]
    public async Task Peer_ThatHasClosedItsHalf_StillGetsWhatWaitsInTheKernel()
    {
        await using var port = new DataPort(s_always);
        using var memory = new TestMemory(port.Registry, WaitingBytes, TestMemory.OfTarget);
        using Socket peer = await AskAndWaitAsync(port, memory);
        peer.Shutdown(SocketShutdown.Send);
        byte[] taken = new byte[WaitingBytes];
        await ReadExactlyAsync(peer, taken);
        Assert.Equal(memory.Bytes(0, WaitingBytes), taken);
        Assert.Equal(0, await peer.ReceiveAsync(new byte[1], TestContext.Current.CancellationToken));
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 0);
    }

    [Fact]
    public async Task Peer_ThatIsGone_LeavesTheRangeFree()
    {
        await using var port = new DataPort(s_always);
        using var memory = new TestMemory(port.Registry, WaitingBytes, TestMemory.OfTarget);
        using Socket peer = await AskAndWaitAsync(port, memory);
        peer.Close(0);      // by reset
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 0);
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(10)));
    }

    [Fact]
    public async Task Dispose_WhileBytesWaitInTheKernel_LetsGoOfThem()
    {
        var port = new DataPort(s_always);
        using var memory = new TestMemory(port.Registry, WaitingBytes, TestMemory.OfTarget);
        using Socket peer = await AskAndWaitAsync(port, memory);
        await port.DisposeAsync().AsTask().WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken);
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(1)));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Lane_FromAnotherNetworkNamespace_ReadsTheSameBytesAndEndsZeroCopy(bool always)
    {
        using NetworkNamespace other = NetworkNamespace.CreateOrSkip();
        await using var port = new DataPort(new TcpDataListenerOptions { ZeroCopy = always ? ZeroCopyMode.Always : ZeroCopyMode.Auto }, other.OurAddress);
        using var memory = new TestMemory(port.Registry, 4 * UnitBytes, TestMemory.OfTarget);
        bool[] zeroCopy = [false, false];
        await other.RunInsideAsync(() => ReadAndCompare(port.EndPoint, memory, units: 32, unit => zeroCopy[unit == 0 ? 0 : 1] = port.Listener.Snapshot()[0].IsZeroCopy));
        // A pair of virtual devices hands the bytes to the other namespace, which the kernel does by a copy: it says so, and we stop.
        Assert.Equal([true, always], zeroCopy);
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 0);
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(10)));
    }

    private static void ReadAndCompare(IPEndPoint endPoint, TestMemory memory, int units, Action<int>? afterEach = null)
    {
        using TcpReadLane lane = DataPort.Open(DataPort.Target(endPoint, version: 2, isOurs: true));
        using var destination = MemoryBuffer.AllocateAnonymous(UnitBytes);
        lane.Submit(new ReadRequest(memory.Address, destination.Address, 16, 0));      // too little to be sent without a copy
        Assert.Equal(ReadStatus.Done, lane.Wait(null).Status);
        afterEach?.Invoke(0);
        for (int unit = 0; unit < units; unit++)
        {
            // Every other one at an odd address, so that pages are not sent whole.
            int offset = unit % 2 == 0 ? unit % 4 * UnitBytes : unit;
            destination.GetSpan(0, UnitBytes).Clear();
            lane.Submit(new ReadRequest(memory.Address + (ulong)offset, destination.Address, UnitBytes, unit));
            Assert.Equal(ReadStatus.Done, lane.Wait(null).Status);
            Assert.True(memory.Buffer.GetReadOnlySpan(offset, UnitBytes).SequenceEqual(destination.GetReadOnlySpan(0, UnitBytes)), $"unit {unit}");
            afterEach?.Invoke(unit + 1);
        }
    }

    // A peer with hardly any room that has asked for everything.
    private static Socket Ask(DataPort port, TestMemory memory)
    {
        var peer = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { ReceiveBufferSize = 4096 };
        peer.Connect(port.EndPoint);
        peer.Send(DataPort.Header((ulong)memory.Buffer.LengthBytes, memory.Address, DataHeader.Read));
        return peer;
    }

    // The same, once the request has ended for us and the kernel has the rest.
    private static async Task<Socket> AskAndWaitAsync(DataPort port, TestMemory memory)
    {
        Socket peer = Ask(port, memory);
        await TcpDataListenerHostileTests.Until(
            () => port.Listener.Snapshot() is [TcpDataConnection connection] && !connection.IsAnswering && connection.Reads(memory.Range));
        return peer;
    }

    private static async Task ReadExactlyAsync(Socket socket, Memory<byte> destination)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        limit.CancelAfter(TimeSpan.FromSeconds(20));
        while (destination.Length != 0)
        {
            int received = await socket.ReceiveAsync(destination, limit.Token);
            Assert.NotEqual(0, received);
            destination = destination[received..];
        }
    }

    private static IPAddress OwnAddress()
    {
        IPAddress? address = NetworkInterface.GetAllNetworkInterfaces()
            .Where(device => device.OperationalStatus == OperationalStatus.Up && device.NetworkInterfaceType != NetworkInterfaceType.Loopback)
            .SelectMany(device => device.GetIPProperties().UnicastAddresses)
            .Select(unicast => unicast.Address)
            .FirstOrDefault(candidate => candidate.AddressFamily == AddressFamily.InterNetwork);
        Assert.SkipWhen(address is null, "this host has no IPv4 address but the loopback's");
        return address;
    }
}
