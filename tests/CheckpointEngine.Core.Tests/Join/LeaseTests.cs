using System.Buffers;
using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Join;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Tcp;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Tests;

/// <summary>Generations and leases: what a joiner reads is of one generation, or it is told that it is not.</summary>
public sealed class LeaseTests
{
    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Unregister_WhileOneJoins_WaitsAndTheJoinIsWhole()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(TimeSpan.FromMinutes(5));
        await holder.RegisterAsync("model", [files.Path], Cancel);
        Task<bool>? gone = null;
        var wasGone = new List<bool>();

        long bytes = 0;
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, InBuckets(bucket =>
        {
            gone ??= holder.UnregisterAsync("model", Cancel);
            wasGone.Add(gone.IsCompleted);
            bytes += Enumerable.Range(0, bucket.TensorCount).Sum(tensor => (long)bucket.GetBytes(tensor).Length);
        }), null, Cancel);

        Assert.True(report.Verified);
        Assert.Equal(report.Bytes, bytes);
        Assert.All(wasGone, Assert.False);
        Assert.True(await gone!.WaitAsync(TimeSpan.FromMinutes(1), Cancel));
        Assert.Equal(0, holder.Registry.Ranges.Length);
    }

    [Fact]
    public async Task Unregister_PatienceIsOver_RevokesTheLeaseAndTheJoinSaysSo()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(TimeSpan.FromMilliseconds(50));
        await holder.RegisterAsync("model", [files.Path], Cancel);

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas,
            InBuckets(_ => holder.UnregisterAsync("model", Cancel).Wait(TimeSpan.FromMinutes(1), Cancel)), null, Cancel));

        Assert.True(failure.Error is CheckpointError.Superseded or CheckpointError.Refused, failure.ToString());
    }

    [Fact]
    public async Task Join_WhatIsReplacedBeforeItsEnd_NamesTheGenerationThatIsThereNow()
    {
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(1 << 20);
        using var tensors = new CallerTensors();
        tensors.Add("a", TensorDtype.U8, [1 << 20], memory.Address);
        await using ParameterServer holder = await StartAsync(TimeSpan.FromMilliseconds(50));
        holder.RegisterTensors("live", tensors);
        long generation = holder.GetMetas("live").Metas.Owners[0].Generation;

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("live").Metas, InBuckets(_ =>
        {
            holder.BeginUpdateAsync("live").Wait(TimeSpan.FromMinutes(1), Cancel);      // all bytes have come by now
            holder.CommitUpdate("live");
        }), null, Cancel));

        long now = holder.GetMetas("live").Metas.Owners[0].Generation;
        Assert.True(now > generation);
        Assert.Equal(CheckpointError.Superseded, failure.Error);
        Assert.Contains($"generation {generation} is superseded by generation {now}", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_MetasOfAnEarlierGeneration_AreRefusedBeforeAByteMoves()
    {
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4096);
        using var tensors = new CallerTensors();
        tensors.Add("a", TensorDtype.U8, [4096], memory.Address);
        await using ParameterServer holder = await StartAsync(TimeSpan.FromSeconds(30));
        holder.RegisterTensors("live", tensors);
        CheckpointMetas stale = holder.GetMetas("live").Metas;
        await holder.BeginUpdateAsync("live");
        holder.CommitUpdate("live");

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(stale, new JoinOptions(), null, Cancel));

        Assert.Equal(CheckpointError.Superseded, failure.Error);
        Assert.Contains("of the metas is superseded by generation", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_OwnerThatWasRestartedOnItsPort_IsNotTakenForTheOneInTheMetas()
    {
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4096);      // at the same address before and after
        CheckpointMetas stale;
        int port;
        await using (ParameterServer first = await StartAsync(TimeSpan.FromSeconds(30)))
        {
            using var tensors = new CallerTensors();
            tensors.Add("a", TensorDtype.U8, [4096], memory.Address);
            first.RegisterTensors("live", tensors);
            stale = first.GetMetas("live").Metas;
            port = EndpointName.Parse(first.P2pStoreAddress).Port;
        }
        memory.GetSpan(0, 4096).Fill(9);
        await using var second = new ParameterServer(new ParameterServerOptions { Port = port });
        await second.StartAsync(Cancel);
        using var others = new CallerTensors();
        others.Add("a", TensorDtype.U8, [4096], memory.Address);
        second.RegisterTensors("live", others);

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(stale, new JoinOptions(), null, Cancel));

        Assert.Equal(CheckpointError.Superseded, failure.Error);
        Assert.Contains("restarted", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Lease_OfEachReader_TellsHowManyThereAre()
    {
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4096);
        await using ParameterServer holder = await StartAsync(TimeSpan.FromSeconds(30));
        using var tensors = new CallerTensors();
        tensors.Add("a", TensorDtype.U8, [4096], memory.Address);
        holder.RegisterTensors("live", tensors);
        EndpointName service = EndpointName.Parse(holder.PeerUrl.AsSpan("ce://".Length));
        ulong address = (ulong)memory.Address;
        using PeerClient first = await PeerClient.ConnectAsync(service, null, TimeSpan.FromSeconds(30), Cancel);
        using PeerClient second = await PeerClient.ConnectAsync(service, null, TimeSpan.FromSeconds(30), Cancel);

        Assert.Equal(1u, (await first.LeaseAsync(address, Cancel)).Readers);
        Assert.Equal(2u, (await second.LeaseAsync(address, Cancel)).Readers);
        Assert.Equal(2u, (await first.LeaseAsync(address, Cancel)).Readers);
        await second.ReleaseAsync(address, Cancel);
        Assert.Equal(1u, (await first.LeaseAsync(address, Cancel)).Readers);
        Assert.Equal(0u, (await second.ReleaseAsync(address, Cancel)).Readers);
    }

    [Fact]
    public async Task Lease_HolderThatNeverRenews_LosesItWithTheConversation()
    {
        var released = new TaskCompletionSource();
        var responder = new PeerSessionTests.Responder { Lease = () => new ReadLease(3, () => 3, released.SetResult) };
        await using var listener = new PeerListener(new IPEndPoint(IPAddress.Loopback, 0), responder, null, NullLogger.Instance,
            new PeerListenerOptions { LeaseLifetime = TimeSpan.FromMilliseconds(100) });
        using PeerClient client = await PeerClient.ConnectAsync(EndpointName.FromEndPoint(listener.LocalEndPoint), null, TimeSpan.FromSeconds(30), Cancel);

        LeaseAnswer answer = await client.LeaseAsync(4096, Cancel);

        Assert.Equal(new LeaseAnswer(3, 0, 100, 1), answer);
        await released.Task.WaitAsync(TimeSpan.FromMinutes(1), Cancel);
        Assert.Equal(CheckpointError.Unreachable, (await Assert.ThrowsAsync<CheckpointEngineException>(() => client.ReleaseAsync(4096, Cancel))).Error);
    }

    [Fact]
    public async Task Lease_Renewed_OutlivesItsLifetimeAndIsGivenBackOnce()
    {
        int taken = 0;
        int released = 0;
        var responder = new PeerSessionTests.Responder
        {
            Lease = () =>
            {
                taken++;
                return new ReadLease(3, () => 3, () => released++);
            },
        };
        await using var listener = new PeerListener(new IPEndPoint(IPAddress.Loopback, 0), responder, null, NullLogger.Instance,
            new PeerListenerOptions { LeaseLifetime = TimeSpan.FromSeconds(2) });      // a busy machine is not late by that
        using PeerClient client = await PeerClient.ConnectAsync(EndpointName.FromEndPoint(listener.LocalEndPoint), null, TimeSpan.FromSeconds(30), Cancel);
        var owner = new MetasOwner(0, "127.0.0.1:1", "", []);
        using OwnerLease lease = await OwnerLease.TakeAsync(client, owner, "the owner", 4096, Cancel);

        var clock = System.Diagnostics.Stopwatch.StartNew();
        while (clock.ElapsedMilliseconds < 5000)        // more than two lifetimes
        {
            await Task.Delay(50, Cancel);
            Assert.Equal(0, released);
        }
        await lease.ReleaseAsync(Cancel);

        Assert.Equal((1, 1), (taken, released));
    }

    [Fact]
    public async Task Lease_OwnerThatEndsTheConversation_IsNamedWithWhatToTry()
    {
        var responder = new PeerSessionTests.Responder { Lease = () => new ReadLease(3, () => 3) };
        var listener = new PeerListener(new IPEndPoint(IPAddress.Loopback, 0), responder, null, NullLogger.Instance,
            new PeerListenerOptions { LeaseLifetime = TimeSpan.FromMilliseconds(300) });
        using PeerClient client = await PeerClient.ConnectAsync(EndpointName.FromEndPoint(listener.LocalEndPoint), null, TimeSpan.FromSeconds(30), Cancel);
        using OwnerLease lease = await OwnerLease.TakeAsync(client, new MetasOwner(0, "127.0.0.1:1", "", []), "rank 0 at 127.0.0.1:1", 4096, Cancel);
        var lost = new TaskCompletionSource<Exception>();
        lease.WhenLost(lost.SetResult);

        await listener.DisposeAsync();

        string message = (await lost.Task.WaitAsync(TimeSpan.FromMinutes(1), Cancel)).Message;
        Assert.StartsWith("read from rank 0 at 127.0.0.1:1: ", message, StringComparison.Ordinal);
        Assert.Contains("check that the owner still runs", message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Lease_Revoked_IsToldAtTheNextRenewal()
    {
        ReadLease? given = null;
        var responder = new PeerSessionTests.Responder { Lease = () => given = new ReadLease(3, () => 8) };
        await using var listener = new PeerListener(new IPEndPoint(IPAddress.Loopback, 0), responder, null, NullLogger.Instance);
        using PeerClient client = await PeerClient.ConnectAsync(EndpointName.FromEndPoint(listener.LocalEndPoint), null, TimeSpan.FromSeconds(30), Cancel);
        await client.LeaseAsync(4096, Cancel);

        given!.Revoke();

        Assert.Equal(new LeaseAnswer(0, 8, 0, 0), await client.LeaseAsync(4096, Cancel));
        Assert.Equal(new LeaseAnswer(0, 8, 0, 0), await client.ReleaseAsync(4096, Cancel));
        Assert.Equal(default, await client.ReleaseAsync(4096, Cancel));
    }

    [Fact]
    public async Task Lease_MoreThanAConversationMayHave_AreRefused()
    {
        var responder = new PeerSessionTests.Responder { Lease = () => new ReadLease(3, () => 3) };
        await using var listener = new PeerListener(new IPEndPoint(IPAddress.Loopback, 0), responder, null, NullLogger.Instance);
        using PeerClient client = await PeerClient.ConnectAsync(EndpointName.FromEndPoint(listener.LocalEndPoint), null, TimeSpan.FromSeconds(30), Cancel);

        ulong address = 1;
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(async () =>
        {
            while (address < 1000)
            {
                await client.LeaseAsync(address++, Cancel);
            }
        });

        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.Equal(3, (await client.LeaseAsync(1, Cancel)).Generation);
    }

    [Fact]
    public async Task Metas_Json_CarryEpochAndGeneration()
    {
        await using ParameterServer holder = await StartAsync(TimeSpan.FromSeconds(30));
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4096);
        using var tensors = new CallerTensors();
        tensors.Add("a", TensorDtype.U8, [4096], memory.Address);
        holder.RegisterTensors("live", tensors);
        MetasOwner told = holder.GetMetas("live").Metas.Owners[0];
        var json = new ArrayBufferWriter<byte>();

        MetasJsonWriter.Write(holder.GetMetas("live").Metas, json);
        MetasOwner read = MetasJsonReader.Read(json.WrittenSpan).Owners[0];

        Assert.Equal(holder.Epoch, read.Epoch);
        Assert.Equal((told.Epoch, told.Generation), (read.Epoch, read.Generation));
        Assert.NotEqual(0, read.Generation);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task RequireLease_WhoHasOneReads_PlainPeersDoNot(bool token)
    {
        using var files = SmallCheckpoint.OfManySizes();
        AccessToken? secret = token ? AccessToken.FromText("secret") : null;
        await using var holder = new ParameterServer(new ParameterServerOptions { RequireLease = true, Token = secret });
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        CheckpointMetas metas = holder.GetMetas("model").Metas;

        await using var joiner = new ParameterServer(new ParameterServerOptions { Token = secret });
        JoinReport report = await joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "copy", RequireVerify = true }, null, Cancel);
        Assert.Equal(["tcp"], report.Transports.Keys);
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("copy")!);

        SegmentDescriptor told = await HandshakeClient.FetchDescriptorAsync(EndpointName.Parse(holder.P2pStoreAddress), default, HandshakeClientOptions.Default, Cancel);
        Assert.Empty(told.Buffers);             // who is refused is told no address either
        MetasBuffer buffer = metas.Owners[0].Buffers[0];
        using var plain = new TcpReadLane(new TcpLaneTarget([new IPEndPoint(IPAddress.Loopback, told.TcpDataPort)], "the owner", told.TcpProtoVersion, IsOurs: false, null, TimeSpan.FromSeconds(5), TimeSpan.FromSeconds(5)));
        plain.Connect();
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4096);
        plain.Submit(new ReadRequest(buffer.Address, memory.Address, 1024, 0));
        Assert.NotEqual(ReadStatus.Done, plain.Wait(null).Status);
    }

    [Fact]
    public async Task RequireLease_AndPlainPeers_IsAContradiction()
    {
        await using var holder = new ParameterServer(new ParameterServerOptions { RequireLease = true, PlainPeers = PlainPeers.All });
        await Assert.ThrowsAsync<InvalidOperationException>(() => holder.StartAsync(Cancel));
    }

    [Fact]
    public async Task GraceTime_WhatIsTakenAway_StaysReadableForIt()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using var holder = new ParameterServer(new ParameterServerOptions { GraceTime = TimeSpan.FromMilliseconds(700) });
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        var clock = System.Diagnostics.Stopwatch.StartNew();

        Task<bool> gone = holder.UnregisterAsync("model", Cancel);

        Assert.Empty(holder.CheckpointNames);
        Assert.NotEqual(0, holder.Registry.Ranges.Length);
        await gone;
        Assert.True(clock.ElapsedMilliseconds >= 690, $"{clock.ElapsedMilliseconds} ms");
        Assert.Equal(0, holder.Registry.Ranges.Length);
    }

    private static JoinOptions InBuckets(Action<JoinBucket> onBucket) => new()
    {
        Transport = TransportChoice.Tcp,
        Destination = JoinDestinationKind.Buckets,
        BucketBytes = 1,
        OnBucket = bucket => onBucket(bucket),
    };

    private static async Task<ParameterServer> StartAsync(TimeSpan drainTimeout)
    {
        var server = new ParameterServer(new ParameterServerOptions { DrainTimeout = drainTimeout });
        await server.StartAsync(Cancel);
        return server;
    }
}
