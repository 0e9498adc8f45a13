using System.Diagnostics;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Tests;

/// <summary>The data port against clients that break rules.</summary>
public sealed class TcpDataListenerHostileTests
{
    private const byte ReadV2 = DataHeader.Read | DataHeader.Acknowledged;
    private static readonly byte[] s_rejected = DataPort.Status(DataHeader.StatusRejected);
    private static readonly byte[] s_ok = DataPort.Status(DataHeader.StatusOk);

    [Theory]
    [InlineData(-1L, 8UL)]                     // a byte before
    [InlineData(0L, 4097UL)]                   // a byte behind
    [InlineData(4095L, 2UL)]
    [InlineData(4096L, 1UL)]
    [InlineData(0L, 0UL)]                      // nothing
    [InlineData(100L, ulong.MaxValue)]         // around the address space
    [InlineData(0L, ulong.MaxValue - 4095)]
    [InlineData(0L, 1UL << 63)]
    public async Task Read_OutsideTheRange_IsRefusedAndTheConnectionClosed(long offset, ulong length)
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);
        ulong address = memory.Address + (ulong)offset;
        Assert.Equal(s_rejected, await port.ExchangeAsync(DataPort.Header(length, address, ReadV2), halfClose: false));
        Assert.Empty(await port.ExchangeAsync(DataPort.Header(length, address, DataHeader.Read), halfClose: false));
    }

    [Fact]
    public async Task Read_WrapsAroundTheAddressSpace_IsRefused()
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);
        Assert.Equal(s_rejected, await port.ExchangeAsync(DataPort.Header(memory.Address + 10, ulong.MaxValue - 5, ReadV2), halfClose: false));
    }

    [Fact]
    public async Task Read_OverTwoAdjacentRanges_IsRefused()
    {
        await using var port = new DataPort();
        using var buffer = Checkpoints.MemoryBuffer.AllocateAnonymous(8192);
        ulong address = (ulong)buffer.Address;
        port.Registry.Register(buffer, address, 4096);
        port.Registry.Register(buffer, address + 4096, 4096);
        Assert.Equal(s_rejected, await port.ExchangeAsync(DataPort.Header(2, address + 4095, ReadV2), halfClose: false));
        Assert.Equal((byte[])[.. s_ok, 0, 0], await port.ExchangeAsync(DataPort.Header(2, address + 4094, ReadV2)));
        Assert.Equal((byte[])[.. s_ok, 0, 0], await port.ExchangeAsync(DataPort.Header(2, address + 4096, ReadV2)));
    }

    [Fact]
    public async Task Read_AfterUnregister_IsRefused()
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);
        using RawClient open = await RawClient.ConnectAsync(port.EndPoint);
        Assert.Equal(8 + 4096, (await port.ExchangeAsync(DataPort.Header(4096, memory.Address, ReadV2))).Length);
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(10)));
        await open.SendAsync(DataPort.Header(4096, memory.Address, ReadV2));
        Assert.Equal(s_rejected, await open.ReadToEndAsync());
    }

    [Theory]
    [InlineData(5)]
    [InlineData(0x7f)]
    [InlineData(0x43)]      // our challenge means nothing where there is no token
    [InlineData(2)]
    public async Task Read_OtherOpcode_IsServedAsARead(byte opcode)
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);
        byte[] payload = memory.Bytes(7, 100);
        Assert.Equal(payload, await port.ExchangeAsync(DataPort.Header(100, memory.Address + 7, opcode)));
        Assert.Equal((byte[])[.. s_ok, .. payload], await port.ExchangeAsync(DataPort.Header(100, memory.Address + 7, (byte)(opcode | 0x80))));
    }

    [Theory]
    [InlineData(DataHeader.Write)]
    [InlineData(DataHeader.Write | DataHeader.Acknowledged)]
    public async Task Write_WithAPayload_IsRefusedAndChangesNothing(byte opcode)
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 1 << 20, TestMemory.OfTarget);
        byte[] before = memory.Bytes(0, 1 << 20);
        byte[] answer = await port.ExchangeAsync([.. DataPort.Header(1 << 16, memory.Address, opcode), .. new byte[1 << 16]], halfClose: false);
        Assert.Equal(opcode == DataHeader.Write ? Array.Empty<byte>() : s_rejected, answer);
        Assert.Equal(before, memory.Bytes(0, 1 << 20));
        Assert.Equal(8 + 16, (await port.ExchangeAsync(DataPort.Header(16, memory.Address, ReadV2))).Length);
    }

    [Fact]
    public async Task Header_InSegmentsOfOneByte_IsServed()
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);
        using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
        byte[] headers = [.. DataPort.Header(100, memory.Address, ReadV2), .. DataPort.Header(50, memory.Address + 1, DataHeader.Read)];
        for (int i = 0; i < headers.Length; i++)
        {
            await client.SendAsync(headers.AsMemory(i, 1));
        }
        client.HalfClose();
        Assert.Equal((byte[])[.. s_ok, .. memory.Bytes(0, 100), .. memory.Bytes(1, 50)], await client.ReadToEndAsync());
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(15)]
    [InlineData(16)]
    [InlineData(30)]
    public async Task Headers_ManyAtOnceAndOneRefused_AnswersThoseBeforeIt(int refused)
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);
        byte[] headers = [.. Enumerable.Range(0, 40).SelectMany(i => DataPort.Header(100, memory.Address + (i == refused ? 4096u : (uint)i), ReadV2))];
        byte[] expected = [.. Enumerable.Range(0, refused).SelectMany(i => (byte[])[.. s_ok, .. memory.Bytes(i, 100)]), .. s_rejected];
        Assert.Equal(expected, await port.ExchangeAsync(headers, halfClose: false));
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(10)));       // nothing is being read any more
    }

    [Fact]
    public async Task Header_HalfThenEnd_ClosesWithoutAnAnswer()
    {
        await using var port = new DataPort();
        Assert.Empty(await port.ExchangeAsync(new byte[13]));
    }

    [Fact]
    public async Task Header_HalfThenSilence_IsCutAfterTheStallTimeout()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { StallTimeout = TimeSpan.FromMilliseconds(200) });
        using RawClient idle = await RawClient.ConnectAsync(port.EndPoint);
        using RawClient stalled = await RawClient.ConnectAsync(port.EndPoint);
        long start = Stopwatch.GetTimestamp();
        await stalled.SendAsync(new byte[12]);
        Assert.Empty(await stalled.ReadToEndAsync());
        Assert.True(Stopwatch.GetElapsedTime(start) >= TimeSpan.FromMilliseconds(190));

        // Who owes nothing is not cut, however long it rests.
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        await idle.SendAsync(DataPort.Header(16, memory.Address, DataHeader.Read));
        idle.HalfClose();
        Assert.Equal(memory.Bytes(0, 16), await idle.ReadToEndAsync());
    }

    [Fact]
    public async Task Header_AByteNowAndThen_IsCutAllTheSame()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { StallTimeout = TimeSpan.FromMilliseconds(400) });
        using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
        Task<byte[]> end = client.ReadToEndAsync();
        int sent = 0;
        while (!end.IsCompleted && sent < 24)
        {
            try
            {
                await client.SendAsync(new byte[1]);
            }
            catch (SocketException)
            {
                break;      // cut
            }
            sent++;
            await Task.WhenAny(end, Task.Delay(100, TestContext.Current.CancellationToken));
        }
        Assert.Empty(await end);
        Assert.True(sent < 20, $"it took {sent} bytes");
    }

    [Fact]
    public async Task Reader_ThatNeverReads_IsCutAndTheRangeDrains()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { StallTimeout = TimeSpan.FromMilliseconds(300) });
        using var memory = new TestMemory(port.Registry, 64 << 20, _ => 1);
        using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
        await client.SendAsync(DataPort.Header(64 << 20, memory.Address, ReadV2));
        await Until(() => !port.Registry.Ranges[0].Drained.IsCompleted && port.Listener.ConnectionCount == 1);
        await Until(() => port.Listener.ConnectionCount == 0);
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(10)));
        Assert.True((await client.ReadToEndAsync()).Length < 64 << 20);
    }

    [Fact]
    public async Task CutReadersOf_OneThatNeverReads_DrainsAtOnce()
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 64 << 20, _ => 1);
        using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
        await client.SendAsync(DataPort.Header(64 << 20, memory.Address, DataHeader.Read));
        await client.ReadSomeAsync();                   // the answer has begun
        Assert.False(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.Zero));
        port.Listener.CutReadersOf(memory.Range);
        await memory.Range.Drained.WaitAsync(TimeSpan.FromSeconds(10), TestContext.Current.CancellationToken);
    }

    [Fact]
    public async Task Connections_MoreThanAllowed_AreClosedAndTheOthersServed()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Limits = new ConnectionLimits(100, 100) });
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        var clients = new List<RawClient>();
        try
        {
            for (int i = 0; i < 100; i++)
            {
                RawClient client = await RawClient.ConnectAsync(port.EndPoint);
                clients.Add(client);
                await client.SendAsync(DataPort.Header(16, memory.Address, DataHeader.Read));
                Assert.Equal(memory.Bytes(0, 16), await client.ReadExactlyAsync(16));
            }
            await Until(() => port.Listener.ConnectionCount == 100);
            for (int i = 0; i < 1000; i++)
            {
                using RawClient extra = await RawClient.ConnectAsync(port.EndPoint);
                if (i % 100 == 0)
                {
                    Assert.Empty(await extra.ReadToEndAsync());
                }
                Assert.InRange(port.Listener.ConnectionCount, 0, 100);
            }
            foreach (RawClient client in clients)
            {
                await client.SendAsync(DataPort.Header(16, memory.Address, DataHeader.Read));
                client.HalfClose();
                Assert.Equal(memory.Bytes(0, 16), await client.ReadToEndAsync());
            }
        }
        finally
        {
            clients.ForEach(client => client.Dispose());
        }
        await Until(() => port.Listener.ConnectionCount == 0);
    }

    [Fact]
    public async Task Accept_WhileOneConnectionAlwaysHasARequestReady_GoesOn()
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        using var busy = new Socket(SocketType.Stream, ProtocolType.Tcp);
        busy.Connect(port.EndPoint);
        byte[] requests = [.. Enumerable.Repeat(DataPort.Header(1, memory.Address, DataHeader.Read), 1000).SelectMany(header => header)];
        Task sending = Task.Factory.StartNew(() =>
        {
            while (!stop.IsCancellationRequested)
            {
                busy.Send(requests);
            }
        }, stop.Token, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        Task receiving = Task.Factory.StartNew(() =>
        {
            byte[] answers = new byte[4096];
            while (busy.Receive(answers) != 0)
            {
            }
        }, stop.Token, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        for (int i = 0; i < 5; i++)
        {
            Assert.Equal(memory.Bytes(0, 16), await port.ExchangeAsync(DataPort.Header(16, memory.Address, DataHeader.Read)));
        }
        await stop.CancelAsync();
        busy.Dispose();
        await Task.WhenAll(sending, receiving).ContinueWith(_ => { }, TaskScheduler.Default);
    }

    [Fact]
    public async Task Dispose_WithOpenConnections_ClosesThemAndEnds()
    {
        var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 64 << 20, _ => 1);
        using RawClient idle = await RawClient.ConnectAsync(port.EndPoint);
        using RawClient busy = await RawClient.ConnectAsync(port.EndPoint);
        await busy.SendAsync(DataPort.Header(64 << 20, memory.Address, DataHeader.Read));
        await busy.ReadSomeAsync();
        await Until(() => port.Listener.ConnectionCount == 2);
        await port.DisposeAsync().AsTask().WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken);
        Assert.Empty(await idle.ReadToEndAsync());
        Assert.True(await port.Registry.UnregisterAsync(memory.Range, TimeSpan.FromSeconds(1)));
    }

    internal static async Task Until(Func<bool> condition)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        limit.CancelAfter(TimeSpan.FromSeconds(20));
        while (!condition())
        {
            await Task.Delay(5, limit.Token);
        }
    }
}
