using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Tests;

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

    // Into one place, each into its own, or some of both; looked at as they come, or at the end.
    [Theory]
    [InlineData(true, 2, 1, false)]
    [InlineData(true, 2, 1, true)]
    [InlineData(true, 2, 64, false)]
    [InlineData(true, 2, 64, true)]
    [InlineData(true, 2, 3, true)]
    [InlineData(false, 2, 1, false)]
    [InlineData(false, 2, 64, true)]
    [InlineData(true, 1, 64, true)]
    [InlineData(true, 1, 1, false)]
    public async Task Wait_ManyReadsOfAllLengthsAhead_GivesEachItsBytes(bool isOurs, int version, int places, bool looks)
    {
        const int Reads = 500;
        const int Place = 1 << 19;
        await using var port = new DataPort();
        using var memory = new TestMemory(port.Registry, 1 << 20, TestMemory.OfTarget);
        byte[] bytes = Destination(places * Place);
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
                    nint place = AddressOf(bytes) + submitted % places * Place;
                    lane.Submit(new ReadRequest(memory.Address + (ulong)parts[submitted].Start, place, parts[submitted].Length, submitted));
                    submitted++;
                }
                ReadOnlyMemory<byte> expected = memory.Bytes(parts[done].Start, parts[done].Length);
                Memory<byte> destination = bytes.AsMemory(done % places * Place, expected.Length);
                var progress = new CheckedProgress(done, destination, expected);
                Assert.Equal(new ReadCompletion(done, ReadStatus.Done), lane.Wait(looks ? progress : null));
                Assert.Equal(looks ? expected.Length : 0, progress.Arrived);
                Assert.True(destination.Span.SequenceEqual(expected.Span), $"read {done}");
            }
        }, TestContext.Current.CancellationToken);
    }

    [Fact]
    public async Task Wait_AnswersInSegmentsOfSevenBytes_GivesEachItsBytes()
    {
        byte[][] payloads = [Payload(1), Payload(100), Payload(63), Payload(1000)];
        byte[] stream = [.. payloads.SelectMany(payload => (byte[])[.. s_ourOk, .. payload])];
        await using var port = new ScriptedPort(async (connection, _, token) =>
        {
            for (int i = 0; i < payloads.Length; i++)
            {
                await ScriptedPort.ReadHeaderAsync(connection, token);
            }
            for (int at = 0; at < stream.Length; at += 7)
            {
                await connection.WriteAsync(stream.AsMemory(at, Math.Min(7, stream.Length - at)), token);
            }
        });
        await Task.Run(() =>
        {
            using var lane = DataPort.Open(DataPort.Target(port.EndPoint, 2, isOurs: true));
            byte[] bytes = Destination(payloads.Length * 1000);
            for (int i = 0; i < payloads.Length; i++)
            {
                lane.Submit(new ReadRequest(0x1000, AddressOf(bytes) + i * 1000, payloads[i].Length, i));
            }
            for (int i = 0; i < payloads.Length; i++)
            {
                Assert.Equal(new ReadCompletion(i, ReadStatus.Done), lane.Wait(null));
                Assert.Equal(payloads[i], bytes[(i * 1000)..(i * 1000 + payloads[i].Length)]);
            }
        }, TestContext.Current.CancellationToken);
    }

    // Is told what has come: more each time, and it is there.
    private sealed class CheckedProgress(int tag, ReadOnlyMemory<byte> destination, ReadOnlyMemory<byte> expected) : IReadProgress
    {
        internal int Arrived { get; private set; }

        void IReadProgress.Arrived(int toldTag, int bytes)
        {
            Assert.Equal(tag, toldTag);
            Assert.InRange(bytes, Arrived + 1, expected.Length);
            Assert.True(destination.Span[..bytes].SequenceEqual(expected.Span[..bytes]), $"read {tag}, {bytes} bytes");
            Arrived = bytes;
        }
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
