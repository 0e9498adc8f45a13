using System.Buffers;
using System.Diagnostics;
using System.Net;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Rdma.Tests.Support;
using CheckpointEngine.Tests;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>Who may connect queue pairs where a token or a lease is demanded, and what becomes of those that are connected.</summary>
public sealed class AuthenticationTests : IDisposable
{
    private const int Bytes = Ends.Bytes;
    private const string Token = "a token that is long enough";

    private readonly RecordedLog _log = new();
    private readonly MemoryBuffer _source = MemoryBuffer.AllocateAnonymous(Bytes);

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    public AuthenticationTests() => new Random(5).NextBytes(_source.GetSpan(0, Bytes));

    public void Dispose()
    {
        _source.Dispose();
        _log.Dispose();
    }

    [LabTheory]
    [InlineData(Token, Token, false)]
    [InlineData("old one\n" + Token, Token, false)]          // while it is changed: both are accepted
    [InlineData(Token + "\nnew one", "new one", false)]
    [InlineData(Token, Token, true)]
    [InlineData(null, null, true)]
    [InlineData(null, null, false)]
    public async Task Join_WithWhatIsDemanded_ReadsOverRdmaAndLeavesNothing(string? holders, string? joiners, bool requireLease)
    {
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes);
        long endpoints = RdmaQueuePairs.Live;
        await using ParameterServer holder = await ServeAsync(holders, requireLease);
        await using ParameterServer joiner = Server(1, joiners, requireLease: false);

        JoinReport report = await joiner.JoinAsync(holder.GetMetas("m").Metas, Into(destination, TransportChoice.Rdma), cancellationToken: Cancel);

        Assert.Equal(["rdma"], report.Transports.Keys);
        Assert.True(report.Verified);
        Assert.True(_source.GetReadOnlySpan(0, Bytes).SequenceEqual(destination.GetReadOnlySpan(0, Bytes)));
        Assert.Equal(endpoints, RdmaQueuePairs.Live);
        Assert.DoesNotContain(Audit, line => line.StartsWith("refuse", StringComparison.Ordinal));
    }

    [LabTheory]
    [InlineData("another token")]
    [InlineData(null)]
    public async Task Join_WithoutTheToken_IsRefusedAndAudited(string? joiners)
    {
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes);
        long endpoints = RdmaQueuePairs.Live;
        await using ParameterServer holder = await ServeAsync(Token);
        await using ParameterServer joiner = Server(1, joiners, requireLease: false);

        var refusal = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("m").Metas, Into(destination, TransportChoice.Rdma), cancellationToken: Cancel));

        Assert.Equal(CheckpointError.Refused, refusal.Error);
        Assert.Equal(endpoints, RdmaQueuePairs.Live);
        if (joiners is not null)        // who has none leaves by himself
        {
            await Ends.UntilAsync(() => ValueTask.FromResult(Array.Exists(Audit, line => line.StartsWith("refuse where=peers", StringComparison.Ordinal))));
        }
    }

    [LabTheory]
    [InlineData(Token, false)]
    [InlineData(null, true)]
    public async Task Stranger_LearnsNoKeyAndConnectsNothing(string? token, bool requireLease)
    {
        await using ParameterServer holder = await ServeAsync(token, requireLease);
        await using RdmaPlane plane = Ends.Plane(1);
        using var pairs = new RdmaQueuePairs(plane.Nics[0], 2, reads: true, isRead: false);
        long endpoints = RdmaQueuePairs.Live;

        SegmentDescriptor told = await Ends.DescribeAsync(holder);
        RdmaHandshake answer = await SayAsync(holder, Connect(plane, pairs, holder));

        Assert.Empty(told.Buffers);
        Assert.Empty(told.Devices);
        Assert.Contains("proves neither", answer.ReplyMessage, StringComparison.Ordinal);
        Assert.Empty(answer.QueuePairs);
        Assert.Equal(endpoints, RdmaQueuePairs.Live);
        Assert.Contains(Audit, line => line.StartsWith("refuse where=handshake", StringComparison.Ordinal) && line.Contains("connect over RDMA", StringComparison.Ordinal));
    }

    [LabFact]
    public async Task Message_RecordedChangedOrOfALeaseThatHasEnded_ConnectsNothing()
    {
        await using ParameterServer holder = await ServeAsync(Token);
        using PeerClient peer = await ConverseAsync(holder);
        RdmaKey key = await KeyAsync(peer);
        await using RdmaPlane plane = Ends.Plane(1);
        using var pairs = new RdmaQueuePairs(plane.Nics[0], 2, reads: true, isRead: false);
        using var others = new RdmaQueuePairs(plane.Nics[0], 2, reads: true, isRead: false);
        long none = RdmaQueuePairs.Live;
        RdmaHandshake message = Sign(key, RdmaProof.Purpose.Connect, Connect(plane, pairs, holder));

        RdmaHandshake first = await SayAsync(holder, message);
        Assert.Equal("", first.ReplyMessage);
        Assert.True(first.Proof!.Proves(key, RdmaProof.Purpose.Answer, first, message.Proof));
        Assert.Equal(none + 1, RdmaQueuePairs.Live);

        // Again while they are connected: an answer that was lost is given once more, and nothing new is connected.
        Assert.Equal(first.QueuePairs, (await SayAsync(holder, message)).QueuePairs);
        Assert.Equal(none + 1, RdmaQueuePairs.Live);

        // By somebody who wants them for queue pairs of his own.
        Assert.Contains("proof is wrong", (await SayAsync(holder, message with { QueuePairs = others.Numbers })).ReplyMessage, StringComparison.Ordinal);
        Assert.Contains("proof is wrong", (await SayAsync(holder, message with { LocalGid = "00:00:00:00:00:00:00:00:00:00:ff:ff:c6:12:00:03" })).ReplyMessage, StringComparison.Ordinal);
        Assert.Contains("proves neither", (await SayAsync(holder, message with { Proof = null, IsEnd = true })).ReplyMessage, StringComparison.Ordinal);       // nor ended by him
        Assert.Equal(none + 1, RdmaQueuePairs.Live);

        // When they have been ended.
        Assert.Equal("", (await SayAsync(holder, Sign(key, RdmaProof.Purpose.End, message with { IsEnd = true, Proof = null }))).ReplyMessage);
        Assert.Equal(none, RdmaQueuePairs.Live);
        Assert.Contains("answered before", (await SayAsync(holder, message)).ReplyMessage, StringComparison.Ordinal);
        Assert.Equal(none, RdmaQueuePairs.Live);

        // When the lease has been given back: its key is of no use, and what was connected is gone with it.
        Assert.Equal("", (await SayAsync(holder, Sign(key, RdmaProof.Purpose.Connect, Connect(plane, others, holder)))).ReplyMessage);
        Assert.Equal(none + 1, RdmaQueuePairs.Live);
        await peer.ReleaseAsync((ulong)_source.Address, Cancel);
        Assert.Equal(none, RdmaQueuePairs.Live);
        Assert.Contains("has ended", (await SayAsync(holder, Sign(key, RdmaProof.Purpose.Connect, Connect(plane, pairs, holder)))).ReplyMessage, StringComparison.Ordinal);
        Assert.Equal(5, Audit.Count(line => line.StartsWith("refuse where=handshake", StringComparison.Ordinal)));
    }

    [LabFact]
    public async Task QueuePairs_TheConversationBreaks_AreGone()
    {
        await using ParameterServer holder = await ServeAsync(Token);
        await using RdmaPlane plane = Ends.Plane(1);
        using var pairs = new RdmaQueuePairs(plane.Nics[0], 2, reads: true, isRead: false);
        long none = RdmaQueuePairs.Live;
        using (PeerClient peer = await ConverseAsync(holder))
        {
            Assert.Equal("", (await SayAsync(holder, Sign(await KeyAsync(peer), RdmaProof.Purpose.Connect, Connect(plane, pairs, holder)))).ReplyMessage);
            Assert.Equal(none + 1, RdmaQueuePairs.Live);
        }
        await Ends.UntilAsync(() => ValueTask.FromResult(RdmaQueuePairs.Live == none));
    }

    [LabFact]
    public async Task Lane_OwnerThatDoesNotProveTheLease_IsNotReadFrom()
    {
        await using ParameterServer holder = await ServeAsync(null);            // demands nothing, and answers whoever asks
        await using RdmaPlane plane = Ends.Plane(1);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        long none = RdmaQueuePairs.Live;
        SegmentDescriptor descriptor = await Ends.DescribeAsync(holder);
        RdmaOwner owner = RdmaOwner.Make(plane, memory, EndpointName.Parse(holder.P2pStoreAddress), isOurs: true, descriptor, TimeSpan.FromSeconds(30), NullLogger.Instance, RdmaKey.Make(new byte[32], 1, new byte[32]));
        using (RdmaReadLane lane = owner.TryMakeLane()!)
        {
            Assert.Equal(CheckpointError.Refused, Assert.Throws<CheckpointEngineException>(lane.Connect).Error);
        }
        Assert.Equal(none, RdmaQueuePairs.Live);
    }

    [LabFact]
    public async Task Lease_RevokedInTheMiddleOfReads_TheReaderIsToldAndTheOwnersQueuePairsAreGone()
    {
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes);
        using MemoryBuffer other = MemoryBuffer.AllocateAnonymous(Bytes);        // which goes on being held, and whose key the reader knows
        await using ParameterServer holder = await ServeAsync(Token);
        holder.RegisterTensors("other", Ends.Tensors(other.Address));
        using PeerClient peer = await ConverseAsync(holder);
        (RdmaKey key, SegmentDescriptor descriptor) = await OfferAsync(peer);
        await using RdmaPlane plane = Ends.Plane(1);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        memory.Add(destination.Address, Bytes);
        RdmaOwner owner = RdmaOwner.Make(plane, memory, EndpointName.Parse(holder.P2pStoreAddress), isOurs: true, descriptor, TimeSpan.FromSeconds(30), NullLogger.Instance, key);
        long none = RdmaQueuePairs.Live;
        using RdmaReadLane lane = owner.TryMakeLane()!;
        lane.Connect();
        Assert.Equal(none + 2, RdmaQueuePairs.Live);
        var reading = new TaskCompletionSource();
        Task<TimeSpan> ended = Task.Run(() =>
        {
            while (Ends.Pump(lane, other.Address, destination.Address, 200))
            {
                reading.TrySetResult();
            }
            return TimeSpan.FromMilliseconds(Environment.TickCount64);
        }, Cancel);
        await reading.Task.WaitAsync(ChildProcess.Patience, Cancel);

        var before = TimeSpan.FromMilliseconds(Environment.TickCount64);
        await holder.UnregisterAsync("m", Cancel);          // that the lease is for; the drain timeout is none

        TimeSpan took = await ended.WaitAsync(ChildProcess.Patience, Cancel) - before;
        Assert.Contains("revoked the lease", lane.Failure, StringComparison.Ordinal);
        Assert.True(took < TimeSpan.FromSeconds(6), $"{took}: it was not told, but waited for a queue pair that is gone");
        await Ends.UntilAsync(() => ValueTask.FromResult(RdmaQueuePairs.Live == none));       // the reader's went with its failure
        Assert.Equal(0, (await peer.LeaseAsync((ulong)_source.Address, Cancel)).Generation);
        Assert.Contains(Audit, line => line.Contains("how=revoked", StringComparison.Ordinal));
        TestContext.Current.TestOutputHelper!.WriteLine($"reads ended {took.TotalMilliseconds:0} ms after the unregistration began");
    }

    [LabFact]
    public async Task Join_ItsLeaseIsRevoked_SaysSo()
    {
        await using ParameterServer holder = await ServeAsync(Token);
        await using ParameterServer joiner = Server(1, Token, requireLease: false);
        var reading = new TaskCompletionSource();
        Task<JoinReport> join = joiner.JoinAsync(holder.GetMetas("m").Metas, new JoinOptions { Destination = JoinDestinationKind.Null, Repeat = 10_000, Transport = TransportChoice.Rdma },
            new Watch(progress =>
            {
                if (progress.BytesDone != 0)
                {
                    reading.TrySetResult();
                }
            }), Cancel);
        await reading.Task.WaitAsync(ChildProcess.Patience, Cancel);

        await holder.UnregisterAsync("m", Cancel);

        var told = await Assert.ThrowsAsync<CheckpointEngineException>(() => join);
        Assert.Equal(CheckpointError.Superseded, told.Error);
    }

    [LabTheory]
    [InlineData(true, "its proof is wrong")]
    [InlineData(false, "it does not prove that it gave the lease")]
    public async Task Join_SomebodyInBetweenChangesTheHandshake_GoesOverTcpAndSaysWhy(bool ofJoiner, string reason)
    {
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes);
        long endpoints = RdmaQueuePairs.Live;
        await using ParameterServer holder = await ServeAsync(Token);
        await using var between = new Meddler(EndpointName.Parse(holder.P2pStoreAddress), ofJoiner);
        await using ParameterServer joiner = Server(1, Token, requireLease: false);
        var json = new ArrayBufferWriter<byte>();
        MetasJsonWriter.Write(holder.GetMetas("m").Metas, json);
        CheckpointMetas metas = MetasJsonReader.Read(Encoding.UTF8.GetBytes(Encoding.UTF8.GetString(json.WrittenSpan).Replace(holder.P2pStoreAddress, between.Address, StringComparison.Ordinal)));

        JoinReport report = await joiner.JoinAsync(metas, Into(destination, TransportChoice.Auto), cancellationToken: Cancel);
        var alone = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(metas, Into(destination, TransportChoice.Rdma), cancellationToken: Cancel));

        Assert.Equal(["tcp"], report.Transports.Keys);
        Assert.Contains(reason, Assert.Single(report.Planes).Reason, StringComparison.Ordinal);
        Assert.Contains(reason, alone.Message, StringComparison.Ordinal);
        Assert.Equal(ofJoiner, Audit.Any(line => line.Contains("its proof is wrong", StringComparison.Ordinal)));
        await Ends.UntilAsync(() => ValueTask.FromResult(RdmaQueuePairs.Live == endpoints));        // what was connected for nobody went with the lease
    }

    [LabFact]
    public async Task Connect_WithAProof_TakesAtMostOneRoundTripMore()
    {
        const int Times = 51;
        await using ParameterServer plain = await ServeAsync(null);
        await using RdmaPlane plane = Ends.Plane(1);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        using var peer = await PeerClient.ConnectAsync(ServiceOf(plain), null, TimeSpan.FromSeconds(30), Cancel);
        (RdmaKey key, SegmentDescriptor descriptor) = await OfferAsync(peer);
        EndpointName name = EndpointName.Parse(plain.P2pStoreAddress);
        var without = new List<double>();
        var with = new List<double>();
        var trip = new List<double>();
        for (int i = 0; i < Times; i++)
        {
            Assert.NotEqual(0, (await peer.LeaseAsync((ulong)_source.Address, Cancel)).Generation);       // renewed: all of it may take longer than a lease lives
            without.Add(Exchange(null));
            with.Add(Exchange(key));
            long start = Stopwatch.GetTimestamp();
            await HandshakeClient.ProbeAsync(name, cancellationToken: Cancel);
            trip.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        }
        (double plainMs, double provenMs, double tripMs) = (Median(without), Median(with), Median(trip));
        TestContext.Current.TestOutputHelper!.WriteLine($"exchange without a proof {plainMs:0.00} ms, with one {provenMs:0.00} ms, one exchange of the handshake port {tripMs:0.00} ms (medians of {Times}, in turns)");
        Assert.True(provenMs < plainMs + tripMs, $"{provenMs:0.00} ms with a proof, {plainMs:0.00} ms without, a round trip has {tripMs:0.00} ms");

        double Exchange(RdmaKey? proved)
        {
            RdmaOwner owner = RdmaOwner.Make(plane, memory, name, isOurs: true, descriptor, TimeSpan.FromSeconds(30), NullLogger.Instance, proved);
            using RdmaReadLane lane = owner.TryMakeLane()!;
            lane.Connect();
            return lane.ExchangeTime.TotalMilliseconds;
        }
    }

    private string[] Audit => _log.Of(AuditLog.Category);

    private static double Median(List<double> values) => values.Order().ElementAt(values.Count / 2);

    private static EndpointName ServiceOf(ParameterServer holder) => EndpointName.Parse(holder.PeerUrl.Replace("ce://", "", StringComparison.Ordinal));

    private static Task<PeerClient> ConverseAsync(ParameterServer holder) => PeerClient.ConnectAsync(ServiceOf(holder), AccessToken.FromText(Token), TimeSpan.FromSeconds(30), Cancel);

    private async Task<(RdmaKey Key, SegmentDescriptor Descriptor)> OfferAsync(PeerClient peer)
    {
        Assert.NotEqual(0, (await peer.LeaseAsync((ulong)_source.Address, Cancel)).Generation);
        return await peer.GetRdmaAsync((ulong)_source.Address, 1 << 20, Cancel);
    }

    private async Task<RdmaKey> KeyAsync(PeerClient peer) => (await OfferAsync(peer)).Key;

    private static RdmaHandshake Connect(RdmaPlane plane, RdmaQueuePairs pairs, ParameterServer holder) => new()
    {
        LocalNicPath = $"{pairs.Numbers[0]}@{plane.Nics[0].Name}",
        PeerNicPath = $"{holder.P2pStoreAddress}@{RdmaLab.Found[0]}",
        QueuePairs = pairs.Numbers,
        LocalGid = plane.Nics[0].Gids[0].WireText,
    };

    private static RdmaHandshake Sign(RdmaKey key, RdmaProof.Purpose purpose, RdmaHandshake message) => message with { Proof = RdmaProof.Sign(key, purpose, key.TakeSequence(), message) };

    private static async Task<RdmaHandshake> SayAsync(ParameterServer holder, RdmaHandshake message)
    {
        var body = new ArrayBufferWriter<byte>();
        message.Write(body);
        return RdmaHandshake.Read(await HandshakeClient.ExchangeAsync(EndpointName.Parse(holder.P2pStoreAddress), "connecting", MessageType.Connection, body.WrittenMemory, cancellationToken: Cancel));
    }

    private async Task<ParameterServer> ServeAsync(string? token, bool requireLease = false)
    {
        ParameterServer holder = Server(0, token, requireLease, _log);
        await holder.StartAsync(Cancel);
        holder.RegisterTensors("m", Ends.Tensors(_source.Address));
        return holder;
    }

    private static ParameterServer Server(int device, string? token, bool requireLease, RecordedLog? log = null)
    {
        var options = new ParameterServerOptions
        {
            Address = IPAddress.Parse(RdmaLab.Address(device)),
            Transport = TransportChoice.Rdma,
            RdmaDevices = RdmaLab.Names([device]),
            Token = token is null ? null : AccessToken.FromText(token),
            RequireLease = requireLease,
            DrainTimeout = TimeSpan.Zero,
        };
        if (log is not null)
        {
            options.LoggerFactory = log;
        }
        return new ParameterServer(options);
    }

    private static JoinOptions Into(MemoryBuffer destination, TransportChoice transport) => new()
    {
        Destination = JoinDestinationKind.Tensors,
        Tensors = Ends.Tensors(destination.Address),
        Transport = transport,
        RequireVerify = true,
    };

    private sealed class Watch(Action<JoinProgress> told) : IProgress<JoinProgress>
    {
        public void Report(JoinProgress value) => told(value);
    }
}
