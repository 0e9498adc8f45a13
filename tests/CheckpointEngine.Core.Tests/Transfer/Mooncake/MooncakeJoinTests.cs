using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using static CheckpointEngine.Tests.FakeLibrary;

namespace CheckpointEngine.Tests;

/// <summary>Whole joins and holders through Mooncake's C API, against the stand-in.</summary>
[Collection(UsesFakeLibrary.Name)]
public sealed class MooncakeJoinTests
{
    private static readonly int[] s_lengths = [1000, 9 << 20, 0, 5, 4 << 20];

    private readonly string _library = Fresh();

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    private ParameterServer Server(TransportChoice transport, string? token = null, PlainPeers? plain = null)
        => new(new ParameterServerOptions { Transport = transport, MooncakeLibrary = _library, Token = token is null ? null : AccessToken.FromText(token), PlainPeers = plain });

    private static JoinOptions Options(JoinDestinationKind destination = JoinDestinationKind.Memory)
        => new() { Transport = TransportChoice.Mooncake, Destination = destination, RequireVerify = true };

    private static void AssertNothingLeft()
    {
        AssertClean();
        Assert.Equal(0, Count(Counter.Engines));
        Assert.Equal(0, Count(Counter.Registered));
    }

    [Fact]
    public async Task Join_FromOurTcpHolder_IsEqualAndVerified()
    {
        using SmallCheckpoint checkpoint = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = Server(TransportChoice.Auto);
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("m", [checkpoint.Path], Cancel);
        await using ParameterServer joiner = Server(TransportChoice.Mooncake);
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("m").Metas, Options(), null, Cancel);
        Assert.True(report.Verified);
        Assert.Equal(["mooncake"], report.Transports.Keys);
        Assert.Equal("mooncake", Assert.Single(report.Planes).Transport);
        SmallCheckpoint.AssertEqual(checkpoint.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
        AssertNothingLeft();
    }

    [Fact]
    public async Task Join_FromAPlainPeer_IsEqualAndUnverified()
    {
        await using var owner = new FakeOwner(s_lengths);
        await using ParameterServer joiner = Server(TransportChoice.Mooncake);
        JoinReport report = await joiner.JoinAsync(owner.Metas, new JoinOptions { Transport = TransportChoice.Mooncake }, null, Cancel);
        Assert.Equal("owner-has-no-digests", report.UnverifiedReason);
        SmallCheckpoint.AssertEqual(owner.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
        AssertNothingLeft();
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public async Task Join_FromAHolderOfTheSame_IsVerifiedAndRegistersWhereItMust(int protocol)
    {
        Set(Setting.Protocol, protocol);
        using SmallCheckpoint checkpoint = SmallCheckpoint.OfManySizes();
        await using (ParameterServer holder = Server(TransportChoice.Mooncake))
        {
            await holder.StartAsync(Cancel);
            await holder.RegisterAsync("m", [checkpoint.Path], Cancel);
            long held = Count(Counter.Registered);
            Assert.Equal(2, held);
            foreach (JoinDestinationKind destination in (JoinDestinationKind[])[JoinDestinationKind.Memory, JoinDestinationKind.Null])
            {
                await using ParameterServer joiner = Server(TransportChoice.Mooncake);
                Assert.True((await joiner.JoinAsync(holder.GetMetas("m").Metas, Options(destination), null, Cancel)).Verified);
                Assert.Equal(held, Count(Counter.Registered));
                Assert.Equal(1, Count(Counter.Engines));
                if (destination == JoinDestinationKind.Memory)
                {
                    SmallCheckpoint.AssertEqual(checkpoint.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
                }
            }
        }
        AssertNothingLeft();
    }

    [Fact]
    public async Task Serve_AnswersWithTheLibrarysDescriptorAndOurAnnouncement()
    {
        using SmallCheckpoint checkpoint = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = Server(TransportChoice.Mooncake);
        await holder.StartAsync(Cancel);
        EndpointName front = EndpointName.Parse(holder.P2pStoreAddress);
        SegmentDescriptor empty = await HandshakeClient.FetchDescriptorAsync(front, default, null, Cancel);
        Assert.Empty(empty.Buffers);
        HeldCheckpoint held = await holder.RegisterAsync("m", [checkpoint.Path], Cancel);
        SegmentDescriptor full = await HandshakeClient.FetchDescriptorAsync(front, default, null, Cancel);
        Assert.Equal(held.Buffers.ToArray().Select(buffer => (ulong)buffer.Address).Order(), full.Buffers.Select(buffer => buffer.Address).Order());
        Assert.NotEqual(front, EndpointName.Parse(full.Name));
        Assert.Equal(["mooncake"], full.Engine!.Transports);
        Assert.Equal(holder.PeerUrl, "ce://" + full.Engine.Peer);
        await holder.UnregisterAsync("m", Cancel);
        Assert.Empty((await HandshakeClient.FetchDescriptorAsync(front, default, null, Cancel)).Buffers);
        Assert.Equal(0, Count(Counter.Registered));
    }

    [Fact]
    public async Task Serve_RegistrationRefused_LeavesNothing()
    {
        using SmallCheckpoint checkpoint = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = Server(TransportChoice.Mooncake);
        await holder.StartAsync(Cancel);
        Set(Setting.FailRegister, -202);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => holder.RegisterAsync("m", [checkpoint.Path], Cancel));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
        Assert.Empty(holder.CheckpointNames);
        Set(Setting.FailRegister, 0);
        await holder.RegisterAsync("m", [checkpoint.Path], Cancel);
    }

    [Fact]
    public async Task Serve_WithATokenThatTheLibraryCannotAskFor_NeedsConsent()
    {
        await using ParameterServer closed = Server(TransportChoice.Mooncake, token: "a secret of ours");
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => closed.StartAsync(Cancel));
        Assert.Contains("--plain-peers all", failure.Message, StringComparison.Ordinal);

        using SmallCheckpoint checkpoint = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = Server(TransportChoice.Mooncake, token: "a secret of ours", plain: PlainPeers.All);
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("m", [checkpoint.Path], Cancel);
        await using ParameterServer joiner = Server(TransportChoice.Mooncake, token: "a secret of ours");
        Assert.True((await joiner.JoinAsync(holder.GetMetas("m").Metas, Options(JoinDestinationKind.Null), null, Cancel)).Verified);
    }

    [Fact]
    public async Task Join_FromAHolderThatDemandsAToken_SaysThatMooncakeKnowsNone()
    {
        using SmallCheckpoint checkpoint = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = Server(TransportChoice.Auto, token: "a secret of ours");
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("m", [checkpoint.Path], Cancel);
        await using ParameterServer joiner = Server(TransportChoice.Mooncake, token: "a secret of ours");
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("m").Metas, Options(), null, Cancel));
        Assert.Contains("Mooncake knows none", failure.Message, StringComparison.Ordinal);
        AssertNothingLeft();
    }

    [Theory]
    [InlineData(6)]
    [InlineData(3)]
    public async Task Join_ReadsThatFail_FailsAndLeavesNothing(int end)
    {
        await using var owner = new FakeOwner(s_lengths);
        await using ParameterServer joiner = Server(TransportChoice.Mooncake);
        Set(Setting.EndAs, end);
        Set(Setting.FailAfter, 2);
        long before = MemoryRegionHandle.LiveBytes;
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(owner.Metas, new JoinOptions { Transport = TransportChoice.Mooncake }, null, Cancel));
        Assert.Equal(CheckpointError.Unreachable, failure.Error);
        Assert.Equal(before, MemoryRegionHandle.LiveBytes);
        AssertNothingLeft();
    }

    [Fact]
    public async Task Join_ThatStalls_TimesOutAndTheEngineIsGoneBeforeTheMemory()
    {
        await using var owner = new FakeOwner(s_lengths);
        await using ParameterServer joiner = Server(TransportChoice.Mooncake);
        Set(Setting.NeverEnds, 1);
        var options = new JoinOptions { Transport = TransportChoice.Mooncake, StallTimeout = TimeSpan.FromMilliseconds(300) };
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(owner.Metas, options, null, Cancel));
        Assert.True(failure.Error is CheckpointError.Timeout or CheckpointError.Unreachable, failure.Message);
        Assert.Equal(0, Count(Counter.Engines));
        Assert.Equal(0, Count(Counter.Misuses));
    }

    [Fact]
    public async Task Join_Cancelled_EndsSoonAndLeavesNothing()
    {
        await using var owner = new FakeOwner(s_lengths);
        await using ParameterServer joiner = Server(TransportChoice.Mooncake);
        Set(Setting.NeverEnds, 1);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(Cancel);
        Task join = joiner.JoinAsync(owner.Metas, new JoinOptions { Transport = TransportChoice.Mooncake }, null, stop.Token);
        while (Count(Counter.Polls) == 0)
        {
            await Task.Yield();
        }
        await stop.CancelAsync();
        Set(Setting.NeverEnds, 0);
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => join);
        AssertNothingLeft();
    }

    [Fact]
    public async Task Probe_NamesThePlaneAndTheTransportInIt()
    {
        await using var owner = new FakeOwner(s_lengths);
        await using ParameterServer joiner = Server(TransportChoice.Mooncake);
        OwnerPlane plane = Assert.Single(await joiner.ProbeAsync(owner.Metas, new JoinOptions { Transport = TransportChoice.Mooncake }, Cancel));
        Assert.Equal("mooncake", plane.Transport);
        Assert.Contains("tcp", plane.Reason, StringComparison.Ordinal);
        AssertNothingLeft();
    }
}
