using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

public sealed class ParameterServerTests
{
    private static async Task<ParameterServer> StartAsync(Action<ParameterServerOptions>? configure = null)
    {
        var options = new ParameterServerOptions();
        configure?.Invoke(options);
        var server = new ParameterServer(options);
        await server.StartAsync(TestContext.Current.CancellationToken);
        return server;
    }

    [Theory]
    [InlineData(HoldMode.Map, DigestAlgorithm.Xxh3)]
    [InlineData(HoldMode.Memfd, DigestAlgorithm.Sha256)]
    [InlineData(HoldMode.Anonymous, DigestAlgorithm.Xxh3)]
    public async Task Join_FromAnotherServer_IsEqualVerifiedAndServesOn(HoldMode hold, DigestAlgorithm digest)
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => (options.Hold, options.Digest) = (hold, digest));
        await holder.RegisterAsync("model", [files.Path], cancel);

        await using ParameterServer joiner = await StartAsync(options => options.Digest = digest);
        using var client = new MetasClient();
        CheckpointMetas metas = await client.FetchAsync($"{holder.PeerUrl}/model", cancel);
        JoinReport report = await joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "copy", RequireVerify = true }, null, cancel);

        Assert.True(report.Verified);
        Assert.Equal(files.Tensors.Values.Sum(tensor => (long)tensor.Length), report.Bytes);
        Assert.Equal(["tcp"], report.Transports.Keys);
        Assert.Equal("tcp was asked for", Assert.Single(report.Planes).Reason);
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("copy")!);
        Assert.Equal("config.json", Assert.Single(joiner.FindCheckpoint("copy")!.SideFiles).Name);

        CheckpointMetas copyMetas = joiner.GetMetas("copy").Metas;
        Assert.Equal(digest, copyMetas.GetDigestAlgorithm(0));
        await using ParameterServer second = await StartAsync();
        report = await second.JoinAsync(copyMetas, new JoinOptions { Transport = TransportChoice.Tcp, RequireVerify = true }, null, cancel);
        Assert.True(report.Verified);
        SmallCheckpoint.AssertEqual(files.Tensors, second.FindCheckpoint("join-checkpoint")!);
    }

    [Theory]
    [InlineData(HoldMode.Map, DigestAlgorithm.Xxh3, false)]
    [InlineData(HoldMode.Memfd, DigestAlgorithm.Xxh3, true)]
    [InlineData(HoldMode.Anonymous, DigestAlgorithm.Xxh3, true)]
    [InlineData(HoldMode.Anonymous, DigestAlgorithm.Sha256, false)]
    [InlineData(HoldMode.Anonymous, DigestAlgorithm.None, false)]
    public async Task Register_CopiedFiles_PublishesTheirDigests(HoldMode hold, DigestAlgorithm digest, bool atOnce)
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => (options.Hold, options.Digest) = (hold, digest));
        var told = new Told();
        HeldCheckpoint held = await holder.RegisterAsync("model", [files.Path], told, cancel);
        Assert.Equal(new LoadProgress(held.DataBytes, held.DataBytes), told.Last);
        CheckpointMetas metas = holder.GetMetas("model").Metas;
        for (int tensor = 0; tensor < held.Tensors.Count; tensor++)
        {
            Assert.Equal(atOnce ? digest : DigestAlgorithm.None, metas.GetDigestAlgorithm(tensor));
            if (atOnce)
            {
                byte[] root = System.IO.Hashing.XxHash128.Hash([.. files.Tensors[metas.Tensors.GetName(tensor)].Chunk(TensorDigest.ChunkBytes)
                    .SelectMany(chunk => System.IO.Hashing.XxHash128.Hash(chunk))]);
                Assert.Equal(root, metas.GetDigest(tensor).ToArray());
            }
        }
    }

    [Fact]
    public async Task Join_ToDirectory_WritesWhatLoadsEqual()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => options.Hold = HoldMode.Anonymous);
        await holder.RegisterAsync("model", [files.Path], cancel);
        string parent = Directory.CreateTempSubdirectory("ce-join-").FullName;
        try
        {
            string target = Path.Combine(parent, "copy");
            await using var joiner = new ParameterServer(new ParameterServerOptions());
            JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas,
                new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Directory, DirectoryPath = target, RequireVerify = true }, null, cancel);
            Assert.True(report.Verified);
            Assert.Equal([target], Directory.GetFileSystemEntries(parent));
            using HeldCheckpoint loaded = CheckpointLoader.Load("copy", target, HoldMode.Map, PinMode.None, cancellationToken: cancel);
            SmallCheckpoint.AssertEqual(files.Tensors, loaded);
            Assert.Equal("config.json", Assert.Single(loaded.SideFiles).Name);
        }
        finally
        {
            Directory.Delete(parent, recursive: true);
        }
    }

    [Fact]
    public async Task Join_OneByteChangedAfterHashing_FailsAndLeavesNothing()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => options.Hold = HoldMode.Anonymous);
        HeldCheckpoint held = await holder.RegisterAsync("model", [files.Path], cancel);
        await using ParameterServer joiner = await StartAsync();
        await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "first" }, null, cancel);   // all digests are there now

        HeldBuffer buffer = held.Buffers[0];
        buffer.Memory.GetSpan(buffer.SizeBytes / 2, 1)[0] ^= 0x40;
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(
            () => joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "second" }, null, cancel));
        Assert.Equal(CheckpointError.DigestMismatch, failure.Error);
        Assert.Null(joiner.FindCheckpoint("second"));
        Assert.Equal(["first"], joiner.CheckpointNames);
    }

    [Fact]
    public async Task Join_WithToken_NeedsTheSameToken()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => options.Token = AccessToken.FromText("correct horse"));
        await holder.RegisterAsync("model", [files.Path], cancel);
        CheckpointMetas metas = holder.GetMetas("model").Metas;

        await using ParameterServer right = await StartAsync(options => options.Token = AccessToken.FromText("correct horse"));
        Assert.True((await right.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp }, null, cancel)).Verified);
        foreach (AccessToken? wrong in new[] { null, AccessToken.FromText("battery staple") })
        {
            await using ParameterServer joiner = await StartAsync(options => options.Token = wrong);
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp }, null, cancel));
            Assert.Equal(CheckpointError.Refused, failure.Error);
        }
    }

    [Fact]
    public async Task Join_OverIPv6_NamesHaveBrackets()
    {
        Assert.SkipUnless(System.Net.Sockets.Socket.OSSupportsIPv6, "this host has no IPv6");
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = new SmallCheckpoint([("a", TensorDtype.F32, [1 << 18])]);
        await using ParameterServer holder = await StartAsync(options => options.Address = System.Net.IPAddress.IPv6Loopback);
        await holder.RegisterAsync("model", [files.Path], cancel);
        Assert.StartsWith("[::1]:", holder.P2pStoreAddress, StringComparison.Ordinal);
        using var client = new MetasClient();
        await using ParameterServer joiner = await StartAsync();
        JoinReport report = await joiner.JoinAsync(await client.FetchAsync($"{holder.PeerUrl}/model", cancel), new JoinOptions { Transport = TransportChoice.Tcp }, null, cancel);
        Assert.True(report.Verified);
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
    }

    [Fact]
    public async Task Join_IncludeAndExclude_TakesOnlyThose()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], cancel);
        await using ParameterServer joiner = await StartAsync();
        await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp, Include = ["layers.*", "odd"], Exclude = ["layers.1?.w"] }, null, cancel);
        var expected = files.Tensors.Where(tensor => tensor.Key == "odd" || (tensor.Key.StartsWith("layers.", StringComparison.Ordinal)
            && !(tensor.Key.StartsWith("layers.1", StringComparison.Ordinal) && tensor.Key.Length == "layers.1?.w".Length))).ToDictionary();
        SmallCheckpoint.AssertEqual(expected, joiner.FindCheckpoint("join-checkpoint")!);
    }

    [Fact]
    public async Task Join_SeveralOwners_MergesThem()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var first = new SmallCheckpoint([("a", TensorDtype.F32, [1 << 20])]);
        using var second = new SmallCheckpoint([("b", TensorDtype.F32, [3 << 20])]);
        await using ParameterServer owner0 = await StartAsync();
        await using ParameterServer owner1 = await StartAsync(options => options.Rank = 1);
        await owner0.RegisterAsync("model", [first.Path], cancel);
        await owner1.RegisterAsync("model", [second.Path], cancel);
        owner0.LoadMetas("model", owner1.GetMetas("model", MetasScope.Local).Metas);

        CheckpointMetas world = owner0.GetMetas("model").Metas;
        Assert.Equal(2, world.Owners.Length);
        Assert.Equal(1, owner0.GetMetas("model", MetasScope.Local).Metas.Owners.Length);
        await using ParameterServer joiner = await StartAsync();
        await joiner.JoinAsync(world, new JoinOptions { Transport = TransportChoice.Tcp }, null, cancel);
        SmallCheckpoint.AssertEqual(first.Tensors.Concat(second.Tensors).ToDictionary(), joiner.FindCheckpoint("join-checkpoint")!);
    }

    [Fact]
    public async Task Unregister_WhileNobodyReads_FreesAndForgets()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync();
        HeldCheckpoint held = await holder.RegisterAsync("model", [files.Path], cancel);
        CheckpointMetas metas = holder.GetMetas("model").Metas;
        Assert.True(await holder.UnregisterAsync("model", cancel));
        Assert.False(await holder.UnregisterAsync("model", cancel));
        Assert.Throws<ObjectDisposedException>(() => held.GetTensorBytes("embed").Length);

        await using ParameterServer joiner = await StartAsync();
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp, Verify = false }, null, cancel));
        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.Empty(joiner.CheckpointNames);
    }

    [Fact]
    public async Task Register_NameTaken_IsRefused()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = new SmallCheckpoint([("a", TensorDtype.F32, [4])]);
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], cancel);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => holder.RegisterAsync("model", [files.Path], cancel));
        Assert.Equal(CheckpointError.AlreadyExists, failure.Error);
        Assert.True(await holder.UnregisterAsync("model", cancel));
        await holder.RegisterAsync("model", [files.Path], cancel);
    }

    private sealed class Told : IProgress<LoadProgress>
    {
        internal LoadProgress Last { get; private set; }

        public void Report(LoadProgress value) => Last = value;
    }
}
