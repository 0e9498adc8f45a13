using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Tests;

/// <summary>The data port with more peers than threads, some of which take their time.</summary>
public sealed class TcpFairnessTests
{
    private const int UnitBytes = 1 << 20;
    private const int Units = 64;

    // What a peer asks for that takes little of it: far more than the kernel keeps for it.
    private const int EndlessBytes = 64 << 20;

    private static int ThreadLimit => Math.Clamp(Environment.ProcessorCount, 2, 64);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Reader_BesideMoreSlowOnesThanThreads_GetsEverything(bool takesAByteNowAndThen)
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, EndlessBytes, TestMemory.OfTarget);
        using var slow = new Peers(4 * ThreadLimit);
        foreach (Socket peer in slow.Sockets)
        {
            peer.ReceiveBufferSize = 4096;
            peer.Connect(port.EndPoint);
            peer.Send(DataPort.Header(EndlessBytes, memory.Address, DataHeader.Read));
            Assert.Equal(1, peer.Receive(new byte[1]));         // its answer has begun
        }
        // A thread that one of them held would be missing here: the lane's own stall timeout would end it.
        await OnAThread(() => ReadAll(port, memory, unit =>
        {
            if (takesAByteNowAndThen)
            {
                slow.Sockets.ForEach(peer => Assert.Equal(1, peer.Receive(new byte[1])));
            }
        }));
        Assert.InRange(port.Listener.ThreadCount, 1, ThreadLimit);
        // The lane's connection goes; the slow ones are all still served.
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == slow.Sockets.Count);
        Assert.All(port.Listener.Snapshot(), connection => Assert.True(connection.IsAnswering && connection.Reads(memory.Range)));
    }

    [Fact]
    public async Task Reader_BesideAsManyAsThreadsThatAskWithoutEnd_GetsItsAnswer()
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        using var busy = new Peers(ThreadLimit);
        byte[] requests = [.. Enumerable.Repeat(DataPort.Header(1, memory.Address, DataHeader.Read), 1000).SelectMany(header => header)];
        var running = new List<Task>();
        foreach (Socket peer in busy.Sockets)
        {
            peer.Connect(port.EndPoint);
            running.Add(OnAThread(() => UntilItBreaks(() => peer.Send(requests))));
            running.Add(OnAThread(() => UntilItBreaks(() => peer.Receive(new byte[4096]))));
        }
        for (int i = 0; i < 5; i++)
        {
            Assert.Equal(memory.Bytes(0, 16), await port.ExchangeAsync(DataPort.Header(16, memory.Address, DataHeader.Read)));
        }
        busy.Sockets.ForEach(peer => peer.Dispose());
        await Task.WhenAll(running);
    }

    [Fact]
    public async Task Readers_ManyAtOnce_AllGetEverythingFromAFewThreads()
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 4 * UnitBytes, TestMemory.OfTarget);
        await Task.WhenAll(Enumerable.Range(0, 32).Select(_ => OnAThread(() => ReadAll(port, memory, _ => { }, units: 16))));
        Assert.InRange(port.Listener.ThreadCount, 1, ThreadLimit);
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 0);
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(10)));
    }

    [Fact]
    public async Task Threads_AfterTheListenerIsGone_End()
    {
        TcpDataListener listener;
        await using (var port = new DataPort())
        {
            listener = port.Listener;
            using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
            Assert.Equal(memory.Bytes(0, 16), await port.ExchangeAsync(DataPort.Header(16, memory.Address, DataHeader.Read)));
            Assert.NotEqual(0, listener.ThreadCount);
        }
        await TcpDataListenerHostileTests.Until(() => listener.ThreadCount == 0);
    }

    // Reads the first four units of the memory over and over; everything that comes is compared.
    private static void ReadAll(DataPort port, TestMemory memory, Action<int> beforeEach, int units = Units)
    {
        using TcpReadLane lane = port.OpenLane();
        using var destination = MemoryBuffer.AllocateAnonymous(UnitBytes);
        for (int unit = 0; unit < units; unit++)
        {
            beforeEach(unit);
            int offset = unit % 4 * UnitBytes;
            lane.Submit(new ReadRequest(memory.Address + (ulong)offset, destination.Address, UnitBytes, unit));
            Assert.Equal(ReadStatus.Done, lane.Wait(null).Status);
            Assert.True(memory.Buffer.GetReadOnlySpan(offset, UnitBytes).SequenceEqual(destination.GetReadOnlySpan(0, UnitBytes)));
        }
    }

    private static void UntilItBreaks(Func<int> step)
    {
        try
        {
            while (step() != 0)
            {
            }
        }
        catch (Exception broken) when (broken is SocketException or ObjectDisposedException)
        {
        }
    }

    private static Task OnAThread(Action action) => Task.Factory.StartNew(action, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

    private sealed class Peers(int count) : IDisposable
    {
        internal List<Socket> Sockets { get; } = [.. Enumerable.Range(0, count).Select(_ => new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp))];

        public void Dispose() => Sockets.ForEach(socket => socket.Dispose());
    }
}
