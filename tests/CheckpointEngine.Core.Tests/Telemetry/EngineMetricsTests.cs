using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Join;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Tests;

/// <summary>What instruments say of joins, of serving, and of what is held.</summary>
[Collection(ListensToProcess.Name)]
public sealed class EngineMetricsTests
{
    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    private static async Task<ParameterServer> HoldAsync(SmallCheckpoint files, Action<ParameterServerOptions>? configure = null)
    {
        var options = new ParameterServerOptions { DrainTimeout = TimeSpan.FromMilliseconds(50) };
        configure?.Invoke(options);
        var holder = new ParameterServer(options);
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        return holder;
    }

    [Theory]
    [InlineData(TransportChoice.Tcp, "tcp")]
    [InlineData(TransportChoice.Local, "local")]
    public async Task Join_ItsBytes_AreCountedByPlaneAtBothEnds(TransportChoice transport, string plane)
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var heard = new Instruments();
        double sentBefore = heard["checkpoint_engine.serve.sent plane=tcp"];
        await using ParameterServer holder = await HoldAsync(files);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = transport, Copy = true, RequireVerify = true }, null, Cancel);

        double read = heard[$"checkpoint_engine.join.read plane={plane}"];
        Assert.InRange(read, report.Bytes, report.Bytes * 1.01);         // padding between tensors is read with them
        Assert.InRange(heard[$"checkpoint_engine.join.units plane={plane}"], report.Bytes / (4 << 20), 1000);
        Assert.Equal(1, heard["checkpoint_engine.joins outcome=ok"]);
        Assert.True(heard["checkpoint_engine.join.duration outcome=ok"] > 0);
        Assert.All((string[])["plan", "allocate", "transfer", "verify", "write"], phase => Assert.Contains($"checkpoint_engine.join.phase.duration phase={phase}", heard.Names));
        Assert.Equal(report.Phases.Transfer, heard["checkpoint_engine.join.phase.duration phase=transfer"], 6);
        double sent = heard["checkpoint_engine.serve.sent plane=tcp"] - sentBefore;
        Assert.InRange(sent, plane == "tcp" ? report.Bytes : 0, plane == "tcp" ? read * 1.01 : 0);
        Assert.Equal(0, heard["checkpoint_engine.join.digest.mismatches"]);
    }

    [Fact]
    public async Task Holder_WhatItHolds_IsShownAndItsChangesCounted()
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var heard = new Instruments();
        (double held, double size) = (heard["checkpoint_engine.checkpoints.held"], heard["checkpoint_engine.checkpoints.size"]);
        await using (ParameterServer holder = await HoldAsync(files))
        {
            Assert.Equal(held + 1, heard["checkpoint_engine.checkpoints.held"]);
            Assert.Equal(size + holder.FindCheckpoint("model")!.DataBytes, heard["checkpoint_engine.checkpoints.size"]);
            await holder.RegisterAsync("model", [files.Path], null, new RegistrationOptions { Replace = true }, Cancel);
            Assert.Equal(held + 1, heard["checkpoint_engine.checkpoints.held"]);
            await holder.UnregisterAsync("model", Cancel);
            Assert.Equal(held, heard["checkpoint_engine.checkpoints.held"]);
        }
        Assert.Equal((1, 1, 1), (heard["checkpoint_engine.checkpoint.changes change=registered"], heard["checkpoint_engine.checkpoint.changes change=replaced"],
            heard["checkpoint_engine.checkpoint.changes change=unregistered"]));
        Assert.Equal(size, heard["checkpoint_engine.checkpoints.size"]);
    }

    [Fact]
    public async Task Lease_WhileItLives_IsShown_AndWhenItIsRevoked_Counted()
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var heard = new Instruments();
        await using ParameterServer holder = await HoldAsync(files);
        ulong address = holder.GetMetas("model").Metas.Owners[0].Buffers[0].Address;
        using PeerClient client = await PeerClient.ConnectAsync(EndpointName.Parse(holder.PeerUrl.AsSpan("ce://".Length)), null, TimeSpan.FromSeconds(30), Cancel);
        await client.LeaseAsync(address, Cancel);
        Assert.Equal((1, 1, 0), (heard["checkpoint_engine.leases.live"], heard["checkpoint_engine.leases.taken"], heard["checkpoint_engine.leases.revoked"]));
        Assert.Equal(1, heard["checkpoint_engine.peer.conversations"]);
        Assert.Equal(1, holder.GetStatus().Checkpoints.Single().Leases);

        await holder.UnregisterAsync("model", Cancel);
        Assert.Equal((0, 1, 1), (heard["checkpoint_engine.leases.live"], heard["checkpoint_engine.leases.taken"], heard["checkpoint_engine.leases.revoked"]));
    }

    [Fact]
    public async Task Join_OfWhatIsNotThere_CountsItsOutcome()
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var heard = new Instruments();
        CheckpointMetas metas;
        await using (ParameterServer holder = await HoldAsync(files))
        {
            metas = holder.GetMetas("model").Metas;
        }
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp }, null, Cancel));
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => joiner.JoinAsync(metas, new JoinOptions(), null, new CancellationToken(canceled: true)));

        Assert.Equal(1, heard["checkpoint_engine.joins outcome=unreachable"]);
        Assert.Equal(1, heard["checkpoint_engine.joins outcome=cancelled"]);
        Assert.Equal(0, heard["checkpoint_engine.joins.active"]);
    }

    [Fact]
    public async Task Join_BytesThatDiffer_CountsTheMismatch()
    {
        using var heard = new Instruments();
        await using var owner = new FakeOwner([1000, 5 << 20], digest: root => [.. root[..15], (byte)(root[15] ^ 1)]);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(owner.Metas, new JoinOptions { Transport = TransportChoice.Tcp }, null, Cancel));
        Assert.True(heard["checkpoint_engine.join.digest.mismatches"] >= 1);
        Assert.Equal(1, heard["checkpoint_engine.joins outcome=digest_mismatch"]);
    }

    [Fact]
    public async Task Holder_WhoIsRefused_IsCountedByReason()
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var heard = new Instruments();
        await using (ParameterServer holder = await HoldAsync(files, options => options.Token = AccessToken.FromText("correct horse")))
        {
            EndpointName peers = EndpointName.Parse(holder.PeerUrl.AsSpan("ce://".Length));
            await Assert.ThrowsAsync<CheckpointEngineException>(() => PeerClient.ConnectAsync(peers, AccessToken.FromText("battery staple"), TimeSpan.FromSeconds(30), Cancel));
            using RawClient stranger = await RawClient.ConnectAsync(IPEndPoint.Parse(peers.ToString()));
            await stranger.SendAsync("GET / HTTP/1.1\r\nHost: stranger\r\n\r\n"u8.ToArray());
            Assert.Empty(await stranger.ReadToEndAsync());
        }
        // With its end every conversation has ended.
        Assert.Equal(1, heard["checkpoint_engine.refusals service=peer reason=token"]);
        Assert.Equal(1, heard["checkpoint_engine.refusals service=peer reason=protocol"]);
    }

    [Fact]
    public async Task DataPort_WhoIsRefused_IsCountedByReason()
    {
        using var heard = new Instruments();
        await using (var port = new DataPort())
        {
            await port.ExchangeAsync(DataPort.Header(16, 0x1000, DataHeader.Write));
            await port.ExchangeAsync(DataPort.Header(16, 0x1000, DataHeader.Read));
        }
        await using (var guarded = new DataPort(new TcpDataListenerOptions { Token = AccessToken.FromText("correct horse"), PlainPeers = PlainPeers.None }))
        {
            await guarded.ExchangeAsync(DataPort.Header(16, 0x1000, DataHeader.Read));
        }
        Assert.All((string[])["write", "range", "token"], reason => Assert.Equal(1, heard[$"checkpoint_engine.refusals service=data reason={reason}"]));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Holder_WhatEachPeerWasSent_IsToldWhereItIsAskedFor(bool measure)
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var heard = new Instruments();
        double before = heard["checkpoint_engine.serve.peer.sent peer=127.0.0.1"];
        long bytes;
        await using (ParameterServer holder = await HoldAsync(files, options => options.MeasurePeers = measure))
        {
            await using var joiner = new ParameterServer(new ParameterServerOptions());
            bytes = (await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Null }, null, Cancel)).Bytes;
            Check();
        }
        Check();        // what a port that is closed has sent stays counted

        void Check() => Assert.InRange(heard["checkpoint_engine.serve.peer.sent peer=127.0.0.1"] - before, measure ? bytes : 0, measure ? bytes * 1.02 : 0);
    }

    [Fact]
    public void PeerTags_OfMorePeersThanHaveNames_AreOther()
    {
        var tags = new PeerTags();
        string[] names = [.. Enumerable.Range(0, 1000).Select(peer => tags.NameOf(new IPAddress([10, 0, (byte)(peer / 256), (byte)peer])))];
        Assert.Equal(PeerTags.MostPeers + 1, names.Distinct().Count());
        Assert.Equal("10.0.0.5", names[5]);
        Assert.Equal("other", names[64]);
        Assert.Equal("10.0.0.63", tags.NameOf(IPAddress.Parse("10.0.0.63")));
    }

    [Fact]
    public void Outcomes_EveryKindOfError_HasAWordOfItsOwn()
    {
        string[] words = [.. Enum.GetValues<CheckpointError>().Select(Outcomes.Of)];
        Assert.Equal(words.Length, words.Distinct().Count());
        Assert.DoesNotContain("failed", words);
        Assert.Equal("failed", Outcomes.Of(new InvalidOperationException()));
    }
}
