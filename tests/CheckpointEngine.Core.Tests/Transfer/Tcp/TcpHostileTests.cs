using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using CheckpointEngine.Access;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
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
        await using var port = new DataPort(new TcpDataListenerOptions { MaxConnections = 100 });
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        var clients = new List<RawClient>();
        try
        {
            for (int i = 0; i < 100; i++)
            {
                clients.Add(await RawClient.ConnectAsync(port.EndPoint));
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

/// <summary>A lane against servers that break rules.</summary>
public sealed class TcpReadLaneTests
{
    private static readonly byte[] s_ok = DataPort.Status(DataHeader.StatusOk);
    private static readonly byte[] s_ourOk = DataPort.Status(DataHeader.StatusOk, DataHeader.LineStatusSize);

    private static byte[] Payload(int length) => [.. Enumerable.Range(0, length).Select(TestMemory.OfScript)];

    private static byte[] Destination(int length) => GC.AllocateArray<byte>(length, pinned: true);

    private static nint AddressOf(byte[] pinned) => Marshal.UnsafeAddrOfPinnedArrayElement(pinned, 0);

    private static async Task<(ReadStatus Status, byte[] Bytes)> ReadOneAsync(Func<NetworkStream, int, CancellationToken, Task> script, int version = 2, TimeSpan? stall = null, bool isOurs = true)
    {
        await using var port = new ScriptedPort(script);
        return await Task.Run(() =>
        {
            using var lane = DataPort.Open(DataPort.Target(port.EndPoint, version, isOurs, null, stall));
            byte[] bytes = Destination(1000);
            lane.Submit(new ReadRequest(0x1000, AddressOf(bytes), bytes.Length, 42));
            ReadCompletion completion = lane.Wait(null);
            Assert.Equal(42, completion.Tag);
            return (completion.Status, bytes);
        });
    }

    private static Func<NetworkStream, int, CancellationToken, Task> Answering(params byte[][] pieces) => async (stream, _, token) =>
    {
        await ScriptedPort.ReadHeaderAsync(stream, token);
        foreach (byte[] piece in pieces)
        {
            await stream.WriteAsync(piece, token);
        }
    };

    [Theory]
    [InlineData(0x4D43_5456_0000_0002UL, nameof(ReadStatus.Garbled))]
    [InlineData(0x4D43_5457_0000_0000UL, nameof(ReadStatus.Garbled))]
    [InlineData(0UL, nameof(ReadStatus.Garbled))]
    [InlineData(ulong.MaxValue, nameof(ReadStatus.Garbled))]
    [InlineData(DataHeader.StatusRejected, nameof(ReadStatus.Refused))]
    public async Task Wait_OtherStatus_IsTold(ulong status, string expected)
    {
        Assert.Equal(expected, (await ReadOneAsync(Answering(DataPort.Status(status), Payload(1000)), isOurs: false)).Status.ToString());
        Assert.Equal(expected, (await ReadOneAsync(Answering(DataPort.Status(status, DataHeader.LineStatusSize), Payload(1000)))).Status.ToString());
    }

    [Fact]
    public async Task Wait_CloseBeforeStatusInsideStatusAndInsidePayload_IsBroken()
    {
        Assert.Equal(ReadStatus.Broken, (await ReadOneAsync(Answering())).Status);
        Assert.Equal(ReadStatus.Broken, (await ReadOneAsync(Answering(s_ourOk[..5]))).Status);
        Assert.Equal(ReadStatus.Broken, (await ReadOneAsync(Answering(s_ourOk[..63]))).Status);
        Assert.Equal(ReadStatus.Broken, (await ReadOneAsync(Answering(s_ourOk, Payload(999)))).Status);
        Assert.Equal(ReadStatus.Broken, (await ReadOneAsync(Answering(s_ok, Payload(999)), isOurs: false)).Status);
        Assert.Equal(ReadStatus.Broken, (await ReadOneAsync(Answering(Payload(999)), version: 1)).Status);
        Assert.Equal(ReadStatus.Refused, (await ReadOneAsync(Answering(), version: 1)).Status);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(5)]
    [InlineData(500)]
    public async Task Wait_SilenceAfterSomeBytes_IsStalledWithinTheTimeout(int answered)
    {
        long start = Stopwatch.GetTimestamp();
        byte[] all = [.. s_ourOk, .. Payload(1000)];
        ReadStatus status = (await ReadOneAsync(async (stream, _, token) =>
        {
            await stream.WriteAsync(all.AsMemory(0, answered), token);
            await Task.Delay(Timeout.Infinite, token);
        }, 2, TimeSpan.FromMilliseconds(300))).Status;
        Assert.Equal(ReadStatus.Stalled, status);
        Assert.InRange(Stopwatch.GetElapsedTime(start).TotalSeconds, 0.25, 15);
    }

    [Fact]
    public async Task Wait_AnswerInSegmentsOfSevenBytes_IsDone()
    {
        byte[] all = [.. s_ourOk, .. Payload(1000)];
        (ReadStatus status, byte[] bytes) = await ReadOneAsync(async (stream, _, token) =>
        {
            await ScriptedPort.ReadHeaderAsync(stream, token);
            for (int at = 0; at < all.Length; at += 7)
            {
                await stream.WriteAsync(all.AsMemory(at, Math.Min(7, all.Length - at)), token);
                await stream.FlushAsync(token);
            }
        });
        Assert.Equal(ReadStatus.Done, status);
        Assert.Equal(Payload(1000), bytes);
    }

    [Fact]
    public async Task Wait_ExtraBytesAfterAnAnswer_GarbleTheNextAndNotThisOne()
    {
        await using var port = new ScriptedPort(async (stream, _, token) =>
        {
            await ScriptedPort.ReadHeaderAsync(stream, token);
            await stream.WriteAsync((byte[])[.. s_ourOk, .. Payload(100), 1, 2, 3], token);
            await ScriptedPort.ReadHeaderAsync(stream, token);
            await stream.WriteAsync((byte[])[.. s_ourOk, .. Payload(100)], token);
        });
        await Task.Run(() =>
        {
            using var lane = DataPort.Open(DataPort.Target(port.EndPoint, 2, isOurs: true));
            byte[] bytes = Destination(200);
            lane.Submit(new ReadRequest(0x1000, AddressOf(bytes), 100, 0));
            Assert.Equal(ReadStatus.Done, lane.Wait(null).Status);
            Assert.Equal(Payload(100), bytes[..100]);
            Assert.Equal(new byte[100], bytes[100..]);
            lane.Submit(new ReadRequest(0x1000, AddressOf(bytes), 100, 1));
            Assert.Equal(ReadStatus.Garbled, lane.Wait(null).Status);
        }, TestContext.Current.CancellationToken);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task Wait_PeerClosesAfterEachAnswer_ReconnectsForEach(int version)
    {
        await using var port = new ScriptedPort(async (stream, number, token) =>
        {
            DataHeader header = await ScriptedPort.ReadHeaderAsync(stream, token);
            await stream.WriteAsync((byte[])[.. version == 2 ? s_ok : [], .. Enumerable.Repeat((byte)header.Address, (int)header.LengthBytes)], token);
        });
        await Task.Run(() =>
        {
            using var lane = DataPort.Open(DataPort.Target(port.EndPoint, version, isOurs: false));
            byte[] bytes = Destination(100);
            for (int i = 1; i <= 20; i++)
            {
                Assert.Equal(1, lane.QueueDepth);
                lane.Submit(new ReadRequest((ulong)i, AddressOf(bytes), bytes.Length, i));
                Assert.Equal(new ReadCompletion(i, ReadStatus.Done), lane.Wait(null));
                Assert.All(bytes, value => Assert.Equal(i, value));
            }
        }, TestContext.Current.CancellationToken);
        Assert.Equal(20, port.Connections);
    }

    [Theory]
    [InlineData(true, 2)]
    [InlineData(false, 2)]
    [InlineData(true, 1)]
    public async Task Wait_ManyReadsOfAllLengthsAhead_GivesEachItsBytes(bool isOurs, int version)
    {
        const int Reads = 500;
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 1 << 20, TestMemory.OfTarget);
        byte[] bytes = Destination(1 << 20);
        var random = new Random(7);
        (int Start, int Length)[] parts = [.. Enumerable.Range(0, Reads).Select(i => (random.Next(1 << 19), i % 3 == 0 ? random.Next(1, 1 << 19) : random.Next(1, 200)))];
        await Task.Run(() =>
        {
            using var lane = DataPort.Open(DataPort.Target(port.EndPoint, version, isOurs));
            int submitted = 0;
            for (int done = 0; done < Reads; done++)
            {
                while (submitted < Reads && submitted - done < lane.QueueDepth)
                {
                    lane.Submit(new ReadRequest(memory.Address + (ulong)parts[submitted].Start, AddressOf(bytes), parts[submitted].Length, submitted));
                    submitted++;
                }
                Assert.Equal(new ReadCompletion(done, ReadStatus.Done), lane.Wait(null));
                Assert.True(bytes.AsSpan(0, parts[done].Length).SequenceEqual(memory.Bytes(parts[done].Start, parts[done].Length)), $"read {done}");
            }
        }, TestContext.Current.CancellationToken);
    }

    [Fact]
    public async Task QueueDepth_OfAPlainPeerThatKeepsTheConnection_Rises()
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);
        using var lane = DataPort.Open(DataPort.Target(port.EndPoint, 2, isOurs: false));
        byte[] bytes = Destination(4096);
        List<int> depths = [];
        for (int i = 0; i < 3; i++)
        {
            depths.Add(lane.QueueDepth);
            lane.Submit(new ReadRequest(memory.Address, AddressOf(bytes), 4096, i));
            Assert.Equal(ReadStatus.Done, lane.Wait(null).Status);
        }
        Assert.Equal([1, 1], depths[..2]);
        Assert.InRange(depths[2], 4, 1000);
    }

    [Fact]
    public async Task Wait_OneOfSeveralIsRefused_TheOthersAreReadOnANewConnection()
    {
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);
        using TcpReadLane lane = port.OpenLane();
        byte[] bytes = Destination(4096);
        ulong[] addresses = [memory.Address, memory.Address + 4096, memory.Address + 1, memory.Address + 2];
        for (int i = 0; i < 4; i++)
        {
            lane.Submit(new ReadRequest(addresses[i], AddressOf(bytes) + i * 100, 100, i));
        }
        ReadStatus[] statuses = [.. Enumerable.Range(0, 4).Select(_ => lane.Wait(null).Status)];
        Assert.Equal([ReadStatus.Done, ReadStatus.Refused, ReadStatus.Done, ReadStatus.Done], statuses);
        Assert.Equal(memory.Bytes(2, 100), bytes[300..400]);
    }

    [Fact]
    public async Task Abort_FromAnotherThreadWhileWaiting_EndsTheWait()
    {
        await using var port = new ScriptedPort((_, _, token) => Task.Delay(Timeout.Infinite, token));
        for (int i = 0; i < 10; i++)
        {
            using var lane = DataPort.Open(DataPort.Target(port.EndPoint, 2, isOurs: true));
            byte[] bytes = Destination(100);
            lane.Submit(new ReadRequest(1, AddressOf(bytes), 100, 0));
            using var entered = new SemaphoreSlim(0);
            Task<ReadCompletion> waiting = Task.Factory.StartNew(() =>
            {
                entered.Release();
                return lane.Wait(null);
            }, TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default);
            await entered.WaitAsync(TestContext.Current.CancellationToken);
            await Task.Delay(i * 3, TestContext.Current.CancellationToken);        // before, at and after the blocking call
            lane.Abort();
            Assert.Equal(ReadStatus.Aborted, (await waiting.WaitAsync(TimeSpan.FromSeconds(10), TestContext.Current.CancellationToken)).Status);
            lane.Submit(new ReadRequest(1, AddressOf(bytes), 100, 1));
            Assert.Equal(new ReadCompletion(1, ReadStatus.Aborted), lane.Wait(null));
        }
    }

    [Fact]
    public void Open_NobodyListens_IsUnreachableAndNamesThePeer()
    {
        IPEndPoint endPoint;
        using (var socket = new Socket(SocketType.Stream, ProtocolType.Tcp))
        {
            socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
            endPoint = (IPEndPoint)socket.LocalEndPoint!;
            var failure = Assert.Throws<CheckpointEngineException>(() => DataPort.Open(DataPort.Target(new IPEndPoint(IPAddress.Loopback, endPoint.Port), 2, true)));
            Assert.Equal(CheckpointError.Unreachable, failure.Error);
            Assert.Contains("the test's peer", failure.Message, StringComparison.Ordinal);
            Assert.NotEqual(0, failure.NativeCode);
        }
    }

    [Fact]
    public async Task Open_SeveralAddressesOfWhichOneAnswers_TakesThat()
    {
        await using var port = new DataPort();
        using var closed = new Socket(SocketType.Stream, ProtocolType.Tcp);
        closed.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        using var lane = DataPort.Open(DataPort.Target(port.EndPoint, 2, true) with
        {
            EndPoints = [new IPEndPoint(IPAddress.Loopback, ((IPEndPoint)closed.LocalEndPoint!).Port), port.EndPoint],
        });
        Assert.InRange(lane.QueueDepth, 4, 1000);
    }
}

/// <summary>The token on the data port.</summary>
public sealed class TcpTokenTests
{
    private const byte Challenge = DataHeader.Challenge | DataHeader.Acknowledged;
    private static readonly AccessToken s_token = AccessToken.FromText("correct horse");

    private static DataPort Guarded(PlainPeers? plain = null) => new(new TcpDataListenerOptions { Token = s_token, PlainPeers = plain ?? PlainPeers.None });

    private static ReadStatus ReadFirst(TcpReadLane lane, TestMemory memory)
    {
        byte[] bytes = GC.AllocateArray<byte>(16, pinned: true);
        lane.Submit(new ReadRequest(memory.Address, Marshal.UnsafeAddrOfPinnedArrayElement(bytes, 0), 16, 0));
        return lane.Wait(null).Status;
    }

    [Fact]
    public async Task Lane_RightToken_Reads()
    {
        await using DataPort port = Guarded();
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        using TcpReadLane lane = port.OpenLane(token: s_token);
        Assert.Equal(ReadStatus.Done, ReadFirst(lane, memory));
    }

    [Fact]
    public async Task Lane_NoToken_IsRefusedUnlessListed()
    {
        await using DataPort port = Guarded();
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        using TcpReadLane lane = port.OpenLane();
        Assert.Equal(ReadStatus.Refused, ReadFirst(lane, memory));

        await using DataPort listing = Guarded(PlainPeers.Parse("127.0.0.0/8"));
        using var listed = new TestMemory(listing.Registry, 16, TestMemory.OfTarget);
        using TcpReadLane plain = listing.OpenLane();
        Assert.Equal(ReadStatus.Done, ReadFirst(plain, listed));
        using TcpReadLane proved = listing.OpenLane(token: s_token);
        Assert.Equal(ReadStatus.Done, ReadFirst(proved, listed));
    }

    [Fact]
    public async Task Lane_WrongToken_IsRefused()
    {
        await using DataPort port = Guarded();
        var failure = Assert.Throws<CheckpointEngineException>(() => port.OpenLane(token: AccessToken.FromText("battery staple")));
        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.DoesNotContain("battery", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Lane_ServerWithoutToken_IsRefused()
    {
        await using var port = new DataPort();
        Assert.Equal(CheckpointError.Refused, Assert.Throws<CheckpointEngineException>(() => port.OpenLane(token: s_token)).Error);
    }

    [Theory]
    [InlineData(false)]      // as v0.3.12: not registered, status 1, close
    [InlineData(true)]       // as v0.3.11: the unmapped address 0, close
    public async Task Lane_OldServerThatDoesNotKnowTheChallenge_IsRefused(bool closesOnly)
    {
        await using var port = new ScriptedPort(async (stream, _, token) =>
        {
            DataHeader header = await ScriptedPort.ReadHeaderAsync(stream, token);
            Assert.Equal(0UL, header.Address);
            await stream.WriteAsync(closesOnly ? [] : DataPort.Status(DataHeader.StatusRejected), token);
        });
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => Task.Run(() => DataPort.Open(DataPort.Target(port.EndPoint, 2, true, s_token))));
        Assert.Equal(CheckpointError.Refused, failure.Error);
    }

    [Fact]
    public async Task Lane_ServerThatOnlyClaimsTheToken_GetsNoProof()
    {
        int after = -1;
        await using (var port = new ScriptedPort(async (stream, _, token) =>
        {
            await ScriptedPort.ReadHeaderAsync(stream, token);
            await stream.ReadExactlyAsync(new byte[32], token);
            await stream.WriteAsync((byte[])[.. DataPort.Status(DataHeader.StatusOk), .. new byte[64]], token);
            after = await stream.ReadAsync(new byte[64], token);
        }))
        {
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => Task.Run(() => DataPort.Open(DataPort.Target(port.EndPoint, 2, true, s_token))));
            Assert.Equal(CheckpointError.Refused, failure.Error);
            await TcpDataListenerHostileTests.Until(() => Volatile.Read(ref after) >= 0);
        }
        Assert.Equal(0, after);
    }

    [Fact]
    public async Task Lane_AbortedAtASilentChallenge_EndsAtOnce()
    {
        var asked = new TaskCompletionSource();
        await using var port = new ScriptedPort(async (stream, _, token) =>
        {
            await ScriptedPort.ReadHeaderAsync(stream, token);
            asked.SetResult();
            await Task.Delay(Timeout.Infinite, token);
        });
        using var lane = new TcpReadLane(DataPort.Target(port.EndPoint, 2, true, s_token, TimeSpan.FromMinutes(5)));
        Task connect = Task.Run(lane.Connect, TestContext.Current.CancellationToken);
        await asked.Task.WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken);
        lane.Abort();
        await Assert.ThrowsAsync<CheckpointEngineException>(() => connect.WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken));
    }

    [Fact]
    public async Task Lane_AbortedWhileItsAddressDoesNotAnswer_EndsAtOnce()
    {
        // A listener whose queue is full answers no further SYN: connect(2) waits.
        using var full = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        full.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        full.Listen(0);
        var endPoint = (IPEndPoint)full.LocalEndPoint!;
        using var first = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await first.ConnectAsync(endPoint, TestContext.Current.CancellationToken);
        using var lane = new TcpReadLane(DataPort.Target(endPoint, 2, true) with { ConnectTimeout = TimeSpan.FromMinutes(5) });
        Task connect = Task.Run(lane.Connect, TestContext.Current.CancellationToken);
        string waiting = $"{endPoint.Port:X4} 02 ";
        await TcpDataListenerHostileTests.Until(() => File.ReadLines("/proc/net/tcp").Any(line => line.Contains(waiting, StringComparison.Ordinal)));
        lane.Abort();
        await Assert.ThrowsAsync<CheckpointEngineException>(() => connect.WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken));
    }

    [Fact]
    public void Lane_AbortedBeforeItConnects_DoesNotConnect()
    {
        using var lane = new TcpReadLane(DataPort.Target(new IPEndPoint(IPAddress.Loopback, 1), 2, true));
        lane.Abort();
        Assert.Contains("aborted", Assert.Throws<CheckpointEngineException>(lane.Connect).Message);
    }

    [Fact]
    public async Task Lane_ServerThatIsSilentAtTheChallenge_IsATimeout()
    {
        await using var port = new ScriptedPort((_, _, token) => Task.Delay(Timeout.Infinite, token));
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => Task.Run(
            () => DataPort.Open(DataPort.Target(port.EndPoint, 2, true, s_token, TimeSpan.FromMilliseconds(200)))));
        Assert.Equal(CheckpointError.Timeout, failure.Error);
    }

    [Fact]
    public async Task Listener_ReplayedProof_IsRefused()
    {
        await using DataPort port = Guarded();
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        byte[] nonce = [.. Enumerable.Range(0, 32).Select(i => (byte)i)];
        byte[] proof = new byte[32];
        byte[] first = await SayAsync(serverNonce => TokenChallenge.Prove(s_token, TokenChallenge.Purpose.TcpLane, false, nonce, serverNonce, proof));
        Assert.Equal((byte[])[.. DataPort.Status(DataHeader.StatusOk), .. DataPort.Status(DataHeader.StatusOk), .. memory.Bytes(0, 16)], first);
        byte[] replayed = await SayAsync(_ => { });
        Assert.Equal(DataPort.Status(DataHeader.StatusRejected), replayed);

        async Task<byte[]> SayAsync(Action<byte[]> prove)
        {
            using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
            await client.SendAsync((byte[])[.. DataPort.Header(32, 0, Challenge), .. nonce]);
            byte[] answer = await client.ReadExactlyAsync(8 + 32 + 32);
            Assert.True(TokenChallenge.Check(s_token, TokenChallenge.Purpose.TcpLane, true, nonce, answer.AsSpan(8, 32), answer.AsSpan(40)));
            prove(answer[8..40]);
            await client.SendAsync((byte[])[.. proof, .. DataPort.Header(16, memory.Address, 0x80)]);
            client.HalfClose();
            return await client.ReadToEndAsync();
        }
    }

    [Fact]
    public async Task Listener_ServersProofSentBack_IsRefused()
    {
        await using DataPort port = Guarded();
        using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
        await client.SendAsync((byte[])[.. DataPort.Header(32, 0, Challenge), .. new byte[32]]);
        byte[] answer = await client.ReadExactlyAsync(72);
        await client.SendAsync(answer.AsMemory(40));
        Assert.Equal(DataPort.Status(DataHeader.StatusRejected), await client.ReadToEndAsync());
    }

    [Fact]
    public async Task Listener_ChallengeHalfSaid_IsCutAfterTheStallTimeout()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Token = s_token, PlainPeers = PlainPeers.None, StallTimeout = TimeSpan.FromMilliseconds(200) });
        using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
        await client.SendAsync((byte[])[.. DataPort.Header(32, 0, Challenge), .. new byte[31]]);
        Assert.Empty(await client.ReadToEndAsync());
    }
}
