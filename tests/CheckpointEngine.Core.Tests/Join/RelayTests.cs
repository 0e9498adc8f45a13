using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Planning;
using CheckpointEngine.Relay;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Tests;

/// <summary>Joins that read together: from each other what the owner has sent once, and only what its digests say.</summary>
public sealed class RelayTests
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(30);

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(HoldMode.Map, HoldMode.Map, false, false)]
    [InlineData(HoldMode.Anonymous, HoldMode.Anonymous, true, false)]      // packed with padding; a token, and so a key among the joiners
    [InlineData(HoldMode.Map, HoldMode.Memfd, false, true)]                // sealed in the end
    public async Task Join_OneHasItAlready_TheNextReadsAllFromIt(HoldMode owner, HoldMode joiner, bool withToken, bool requireLease)
    {
        using var files = SmallCheckpoint.OfManySizes();
        AccessToken? token = withToken ? AccessToken.FromText("secret") : null;
        await using ParameterServer holder = await HoldAsync(files, new ParameterServerOptions { Hold = owner, Token = token, RequireLease = requireLease });
        await using var first = new ParameterServer(new ParameterServerOptions { Hold = joiner, Token = token });
        await using var second = new ParameterServer(new ParameterServerOptions { Hold = joiner, Token = token });

        JoinReport one = await first.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);
        JoinReport two = await second.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);

        Assert.Equal(0, one.RelayedBytes);
        Assert.InRange(two.RelayedBytes, two.Bytes, two.Bytes + (256 * two.Tensors));       // with padding, if there is any
        Assert.True(one.Verified && two.Verified);
        Assert.Empty(one.Warnings);
        Assert.Empty(two.Warnings);
        SmallCheckpoint.AssertEqual(files.Tensors, first.FindCheckpoint("copy")!);
        SmallCheckpoint.AssertEqual(files.Tensors, second.FindCheckpoint("copy")!);
    }

    [Fact]
    public async Task Join_ManyAtOnce_AllHaveEverything()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await HoldAsync(files, new ParameterServerOptions());
        ParameterServer[] joiners = [.. Enumerable.Range(0, 12).Select(_ => new ParameterServer(new ParameterServerOptions()))];
        try
        {
            JoinReport[] reports = await Task.WhenAll(joiners.Select(joiner => joiner.JoinAsync(MetasOf(holder), Relayed(), null, Cancel)));

            Assert.All(reports, report => Assert.True(report.Verified));
            Assert.All(reports, report => Assert.Empty(report.Warnings));
            Assert.All(joiners, joiner => SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("copy")!));
            Assert.All(await Task.WhenAll(joiners.Select(joiner => joiner.FinishRelaysAsync(s_patience, Cancel))), Assert.True);
        }
        finally
        {
            foreach (ParameterServer joiner in joiners)
            {
                await joiner.DisposeAsync();
            }
        }
    }

    [Theory]
    [InlineData(HoldMode.Map)]
    [InlineData(HoldMode.Anonymous)]      // slots are padded there, shards are not: units of several small tensors lie otherwise
    public async Task Join_IntoDirectories_TheSecondReadsFromTheFilesOfTheFirst(HoldMode hold)
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var place = new TempDirectory();
        await using ParameterServer holder = await HoldAsync(files, new ParameterServerOptions { Hold = hold });
        await using var first = new ParameterServer(new ParameterServerOptions());
        await using var second = new ParameterServer(new ParameterServerOptions());

        await first.JoinAsync(MetasOf(holder), IntoDirectory("one"), null, Cancel);
        JoinReport report = await second.JoinAsync(MetasOf(holder), IntoDirectory("two"), null, Cancel);

        Assert.InRange(report.RelayedBytes, hold == HoldMode.Map ? report.Bytes : report.Bytes * 8 / 10, report.Bytes);
        await using var reader = new ParameterServer(new ParameterServerOptions());
        SmallCheckpoint.AssertEqual(files.Tensors, await reader.RegisterAsync("two", [Path.Combine(place.Path, "two")], Cancel));

        JoinOptions IntoDirectory(string name)
        {
            JoinOptions options = Relayed();
            options.Destination = JoinDestinationKind.Directory;
            options.DirectoryPath = Path.Combine(place.Path, name);
            return options;
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Join_ARelayIsWrong_TheRestIsReadFromTheOwner(bool sendsOtherBytes)
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await HoldAsync(files, new ParameterServerOptions());
        await using var liar = await FakeRelay.EnterAsync(MetasOf(holder), sendsOtherBytes);
        await using var joiner = new ParameterServer(new ParameterServerOptions());

        JoinReport report = await joiner.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);

        Assert.True(report.Verified);
        Assert.Equal(0, report.RelayedBytes);
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("copy")!);
        Assert.True(report.RetriedBytes > 0);
        if (sendsOtherBytes)
        {
            Assert.StartsWith($"a relay was left: read from relay at 127.0.0.1:{liar.Port}: check tensor '", Assert.Single(report.Warnings), StringComparison.Ordinal);
        }
        else
        {
            Assert.Empty(report.Warnings);
        }
    }

    [Fact]
    public async Task Join_WhatIsReadOtherwise_IsReadWithoutRelayAndSaysWhy()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await HoldAsync(files, new ParameterServerOptions { Digest = DigestAlgorithm.None });
        await using ParameterServer replica = await HoldAsync(files, new ParameterServerOptions());
        await using ParameterServer other = await HoldAsync(files, new ParameterServerOptions());
        await using var joiner = new ParameterServer(new ParameterServerOptions());

        Assert.Contains("makes no digests", await WarningAsync(MetasOf(holder), static _ => { }), StringComparison.Ordinal);
        Assert.Contains("checks none", await WarningAsync(MetasOf(replica), static options => options.Verify = false), StringComparison.Ordinal);
        Assert.Contains("stays nowhere", await WarningAsync(MetasOf(replica), static options => options.Destination = JoinDestinationKind.Null), StringComparison.Ordinal);
        Assert.Contains("this host", await WarningAsync(MetasOf(replica), static options => (options.Transport, options.Copy) = (TransportChoice.Local, true)), StringComparison.Ordinal);
        Assert.Contains("stand in for each other", await WarningAsync(CheckpointMetas.Combine(MetasOf(replica), MetasOf(other)), static _ => { }), StringComparison.Ordinal);

        async Task<string> WarningAsync(CheckpointMetas metas, Action<JoinOptions> change)
        {
            JoinOptions options = Relayed();
            change(options);
            JoinReport report = await joiner.JoinAsync(metas, options, null, Cancel);
            await joiner.UnregisterAsync("copy", Cancel);
            return report.Warnings.Single(warning => warning.Contains("without relay", StringComparison.Ordinal));
        }
    }

    [Fact]
    public async Task Join_TheNextVersion_WhatIsHereAlreadyIsNeitherReadNorLost()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await HoldAsync(files, new ParameterServerOptions());
        await using var first = new ParameterServer(new ParameterServerOptions());
        await using var second = new ParameterServer(new ParameterServerOptions());
        await first.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);
        await second.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);
        using var next = new SmallCheckpoint(files.Tensors.Select(tensor => (tensor.Key, Bytes: (byte[])tensor.Value.Clone())).ToDictionary(tensor => tensor.Key, tensor => Change(tensor.Key, tensor.Bytes)));
        await holder.RegisterAsync("model", [next.Path], null, new RegistrationOptions { Replace = true }, Cancel);

        JoinReport one = await first.JoinAsync(MetasOf(holder), Again(), null, Cancel);
        JoinReport two = await second.JoinAsync(MetasOf(holder), Again(), null, Cancel);

        Assert.InRange(one.ReusedBytes, 1, one.Bytes - 1);
        Assert.Equal(one.ReusedBytes, two.ReusedBytes);
        Assert.Equal(two.Bytes - two.ReusedBytes, two.RelayedBytes);
        SmallCheckpoint.AssertEqual(next.Tensors, second.FindCheckpoint("copy")!);

        static byte[] Change(string name, byte[] bytes)
        {
            if (name == "big")
            {
                bytes[0] ^= 1;
            }
            return bytes;
        }

        static JoinOptions Again()
        {
            JoinOptions options = Relayed();
            (options.Replace, options.EarlierCheckpoint) = (true, "copy");
            return options;
        }
    }

    [Fact]
    public async Task Unregister_OfWhatIsRelayed_EndsTheRelay()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await HoldAsync(files, new ParameterServerOptions());
        await using var first = new ParameterServer(new ParameterServerOptions());
        await using var second = new ParameterServer(new ParameterServerOptions());
        await first.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);

        Assert.True(await first.UnregisterAsync("copy", Cancel));
        JoinReport report = await second.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);

        Assert.Equal(0, report.RelayedBytes);
        SmallCheckpoint.AssertEqual(files.Tensors, second.FindCheckpoint("copy")!);
    }

    [Fact]
    public async Task FinishRelays_SomebodyIsInTheMiddle_IsWaitedForAsLongAsItIsAsked()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await HoldAsync(files, new ParameterServerOptions());
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        Assert.True(await joiner.FinishRelaysAsync(s_patience, Cancel));       // there is none
        var other = await FakeRelay.EnterAsync(MetasOf(holder), sendsOtherBytes: true, isComplete: false);
        await joiner.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);

        Assert.False(await joiner.FinishRelaysAsync(TimeSpan.FromMilliseconds(50), Cancel));
        await other.DisposeAsync();
        await joiner.UnregisterAsync("copy", Cancel);
        await joiner.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);
        Assert.True(await joiner.FinishRelaysAsync(s_patience, Cancel));
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("copy")!);
    }

    [Fact]
    public async Task FinishRelays_TheOwnerHasTakenItAway_WaitsForNobody()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await HoldAsync(files, new ParameterServerOptions());
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await using var other = await FakeRelay.EnterAsync(MetasOf(holder), sendsOtherBytes: true, isComplete: false);
        await joiner.JoinAsync(MetasOf(holder), Relayed(), null, Cancel);

        await holder.UnregisterAsync("model", Cancel);

        Assert.True(await joiner.FinishRelaysAsync(s_patience, Cancel));
    }

    private static JoinOptions Relayed() => new() { Transport = TransportChoice.Tcp, CheckpointName = "copy", Relay = true };

    private static CheckpointMetas MetasOf(ParameterServer server) => server.GetMetas("model").Metas;

    private static async Task<ParameterServer> HoldAsync(SmallCheckpoint files, ParameterServerOptions options)
    {
        options.DrainTimeout = TimeSpan.Zero;
        var server = new ParameterServer(options);
        await server.StartAsync(Cancel);
        await server.RegisterAsync("model", [files.Path], Cancel);
        return server;
    }

    /// <summary>A joiner that says that it has everything, and sends something else, or refuses.</summary>
    private sealed class FakeRelay : IAsyncDisposable
    {
        private readonly PeerClient _owner;
        private readonly MemoryBuffer _memory;
        private readonly RelayServer _server;

        private FakeRelay(PeerClient owner, MemoryBuffer memory, RelayServer server)
        {
            _owner = owner;
            _memory = memory;
            _server = server;
        }

        internal int Port => _server.Port;

        internal static async Task<FakeRelay> EnterAsync(CheckpointMetas metas, bool sendsOtherBytes, bool isComplete = true)
        {
            TransferPlan plan = TransferPlanner.Plan(metas, new TensorFilter([], []));
            ReadUnit[] units = SwarmUnits.Cut(plan, 0)!;
            UInt128 layout = SwarmUnits.LayoutOf(plan, units);
            ulong address = plan.Ranges[0].RemoteAddress;
            EndpointName name = EndpointName.Parse(metas.Owners[0].P2pStoreAddress);
            SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(name, default, HandshakeClientOptions.Default, Cancel);
            PeerClient owner = await PeerClient.ConnectAsync(EndpointName.Parse(descriptor.Engine!.Peer), null, s_patience, Cancel);

            MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4 << 20);
            ulong at = sendsOtherBytes ? (ulong)memory.Address : 16;
            var board = new UnitBoard(Array.ConvertAll(units, unit => unit.LengthBytes), 1, new Random(1));
            var server = new RelayServer(IPAddress.Loopback, null, new RelayOffer(layout, board, Array.ConvertAll(units, _ => at)), new RelayTerms { Logging = NullLoggerFactory.Instance });
            server.PutIn([memory]);
            for (int unit = 0; unit < units.Length; unit++)
            {
                board.Complete(unit, offer: true);
            }
            // All that there is is given out, and with this one.
            for (int done = 0; isComplete && done < units.Length;)
            {
                SwarmAnswer answer = await owner.AskSwarmAsync(new SwarmRequest(address, layout, units.Length, server.Port, 0, 0, units.Length, 0, done, []), Cancel);
                done += answer.Given!.Length;
            }
            await owner.AskSwarmAsync(new SwarmRequest(address, layout, units.Length, isComplete ? server.Port : 0, 0, 0, 0, 0, isComplete ? units.Length : 0, []), Cancel);
            return new FakeRelay(owner, memory, server);
        }

        public async ValueTask DisposeAsync()
        {
            _owner.Dispose();
            await _server.DisposeAsync();
            _memory.Dispose();
        }
    }
}
