using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

/// <summary>What is on this host already is not read again: shards that an interrupted join left, and an earlier version in memory.</summary>
public sealed class SeedTests
{
    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Join_DirectoryThatAFailedJoinLeft_ReadsOnlyWhatIsMissing()
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var temp = new TempDirectory();
        string place = temp["model"];
        string partial = temp[".model.ce-partial"];
        await using ParameterServer holder = await StartAsync();
        HeldCheckpoint held = await holder.RegisterAsync("model", [files.Path], Cancel);
        CheckpointMetas metas = holder.GetMetas("model").Metas;
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await joiner.JoinAsync(metas, Into(place), null, Cancel);
        Directory.Move(place, partial);                     // as a join leaves it that was killed when nearly done,
        string[] shards = Directory.GetFiles(partial, "*.safetensors");
        Damage(shards[0]);                                      // with bytes that never came
        File.WriteAllText(Path.Combine(partial, "stray.json"), "{}");

        JoinReport report = await joiner.JoinAsync(metas, Into(place), null, Cancel);

        Assert.True(report.Verified);
        long read = report.Transports.Values.Sum();
        Assert.InRange(read, 1, 2 * TensorDigest.ChunkBytes);
        Assert.InRange(report.ReusedBytes, held.DataBytes - read, held.DataBytes);
        Assert.False(File.Exists(Path.Combine(place, "stray.json")));
        await using ParameterServer other = await StartAsync();
        SmallCheckpoint.AssertEqual(files.Tensors, await other.RegisterAsync("copy", [place], Cancel));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Join_ShardsOfAnotherLayoutOrLinks_AreNotTrusted(bool link)
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var temp = new TempDirectory();
        string place = temp["model"];
        string partial = temp[".model.ce-partial"];
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], Cancel);
        CheckpointMetas metas = holder.GetMetas("model").Metas;
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await joiner.JoinAsync(metas, Into(place), null, Cancel);
        Directory.CreateDirectory(partial);
        string elsewhere = temp["elsewhere"];
        foreach (string shard in Directory.GetFiles(place, "*.safetensors"))
        {
            string there = Path.Combine(partial, Path.GetFileName(shard));
            if (link)
            {
                File.Copy(shard, elsewhere, overwrite: true);
                File.CreateSymbolicLink(there, elsewhere);
            }
            else
            {
                File.WriteAllBytes(there, [.. File.ReadAllBytes(shard), 0]);
            }
        }

        JoinReport report = await joiner.JoinAsync(metas, Into(place), null, Cancel);

        Assert.Equal(0, report.ReusedBytes);
        Assert.All(Directory.GetFiles(place), file => Assert.Null(new FileInfo(file).LinkTarget));
        await using ParameterServer other = await StartAsync();
        SmallCheckpoint.AssertEqual(files.Tensors, await other.RegisterAsync("copy", [place], Cancel));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Join_EarlierVersionIsHeld_ReadsOnlyWhatChanged(bool verify)
    {
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(64 << 20);
        new Random(3).NextBytes(memory.GetSpan(0, 64 << 20));
        using var tensors = new CallerTensors();
        for (int tensor = 0; tensor < 16; tensor++)
        {
            tensors.Add($"t{tensor}", TensorDtype.U8, [4 << 20], memory.Address + tensor * (4 << 20));
        }
        await using ParameterServer holder = await StartAsync();
        holder.RegisterTensors("live", tensors);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await joiner.JoinAsync(holder.GetMetas("live").Metas, Into(null), null, Cancel);
        HeldCheckpoint first = joiner.FindCheckpoint("live")!;
        await holder.BeginUpdateAsync("live");
        memory.GetSpan(5 * (4 << 20) + 7, 1)[0] ^= 1;
        holder.CommitUpdate("live");

        JoinOptions options = Into(null);
        (options.EarlierCheckpoint, options.Replace, options.Verify) = ("live", true, verify);
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("live").Metas, options, null, Cancel);

        HeldCheckpoint second = joiner.FindCheckpoint("live")!;
        Assert.NotSame(first, second);
        Assert.Equal(verify ? 4 << 20 : 64 << 20, report.Transports["tcp"]);
        Assert.Equal(verify ? 60 << 20 : 0, report.ReusedBytes);
        for (int tensor = 0; tensor < 16; tensor++)
        {
            Assert.True(memory.GetReadOnlySpan(tensor * (4 << 20), 4 << 20).SequenceEqual(second.GetTensorBytes($"t{tensor}")));
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Join_EarlierVersionInTheDirectory_ReadsOnlyWhatChanged(bool replace)
    {
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(32 << 20);
        new Random(3).NextBytes(memory.GetSpan(0, 32 << 20));
        using var tensors = new CallerTensors();
        for (int tensor = 0; tensor < 8; tensor++)
        {
            tensors.Add($"t{tensor}", TensorDtype.U8, [4 << 20], memory.Address + tensor * (4 << 20));
        }
        using var temp = new TempDirectory();
        string place = temp["model"];
        string partial = temp[".model.ce-partial"];
        await using ParameterServer holder = await StartAsync();
        holder.RegisterTensors("live", tensors);
        await using ParameterServer joiner = await StartAsync();
        await joiner.JoinAsync(holder.GetMetas("live").Metas, Into(place), null, Cancel);
        await holder.BeginUpdateAsync("live");
        memory.GetSpan(5 * (4 << 20) + 7, 1)[0] ^= 1;
        holder.CommitUpdate("live");

        JoinOptions options = Into(place);
        options.Replace = replace;
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("live").Metas, options, null, Cancel);

        Assert.True(report.Verified);
        Assert.Equal(replace ? 4 << 20 : 32 << 20, report.Transports["tcp"]);
        Assert.Equal(replace ? 28 << 20 : 0, report.ReusedBytes);
        HeldCheckpoint copy = await joiner.RegisterAsync("copy", [place], Cancel);
        for (int tensor = 0; tensor < 8; tensor++)
        {
            Assert.True(memory.GetReadOnlySpan(tensor * (4 << 20), 4 << 20).SequenceEqual(copy.GetTensorBytes($"t{tensor}")));
        }
    }

    [Fact]
    public async Task Join_EarlierVersionOfOtherTensors_IsOfNoUseAndDoesNoHarm()
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var others = new SmallCheckpoint([("big", TensorDtype.F32, [7]), ("embed", TensorDtype.U8, [3000 * 1024 * 2])]);
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using ParameterServer joiner = await StartAsync();
        await joiner.RegisterAsync("live", [others.Path], Cancel);

        JoinOptions options = Into(null);
        (options.EarlierCheckpoint, options.Replace) = ("live", true);
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, options, null, Cancel);

        Assert.Equal(0, report.ReusedBytes);
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("live")!);
    }

    [Fact]
    public async Task Replace_WhileOneJoins_TheOldOneIsReadToItsEndAndTheNewOneIsTold()
    {
        using var old = SmallCheckpoint.OfManySizes();
        using var next = new SmallCheckpoint([("a", TensorDtype.U8, [1 << 20])]);
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [old.Path], Cancel);
        PublishedMetas before = holder.GetMetas("model");
        bool replaced = false;
        var seen = new Dictionary<string, byte[]>();
        await using var joiner = new ParameterServer(new ParameterServerOptions());

        await joiner.JoinAsync(before.Metas, new JoinOptions
        {
            Transport = TransportChoice.Tcp,
            Destination = JoinDestinationKind.Buckets,
            BucketBytes = 1,
            OnBucket = bucket =>
            {
                if (!replaced)
                {
                    holder.RegisterAsync("model", [next.Path], null, new RegistrationOptions { Replace = true }, Cancel).Wait(Cancel);
                    replaced = true;
                }
                for (int i = 0; i < bucket.TensorCount; i++)
                {
                    seen.Add(bucket.Tensors.GetName(bucket.GetTensor(i)), bucket.GetBytes(i).ToArray());
                }
            },
        }, null, Cancel);

        Assert.Equal(old.Tensors.Count, seen.Count);
        Assert.All(old.Tensors, tensor => Assert.True(tensor.Value.AsSpan().SequenceEqual(seen[tensor.Key]), tensor.Key));
        PublishedMetas after = holder.GetMetas("model");
        Assert.NotEqual(before.EntityTag, after.EntityTag);
        Assert.True(after.Metas.Owners[0].Generation > before.Metas.Owners[0].Generation);
        await joiner.JoinAsync(after.Metas, Into(null), null, Cancel);
        SmallCheckpoint.AssertEqual(next.Tensors, joiner.FindCheckpoint("live")!);
    }

    [Fact]
    public async Task Unregister_WhileItsReplacementIsOnItsWay_TakesTheOldOneAwayAndLetsTheNewOneCome()
    {
        using var old = SmallCheckpoint.OfManySizes();
        using var next = new SmallCheckpoint([("a", TensorDtype.U8, [1 << 20])]);
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [old.Path], Cancel);
        var loading = new Loading();

        Task<HeldCheckpoint> replacing = holder.RegisterAsync("model", [next.Path], loading, new RegistrationOptions { Replace = true }, Cancel);
        await loading.Reached.Task.WaitAsync(Cancel);
        Assert.True(await holder.UnregisterAsync("model", Cancel));
        Assert.Empty(holder.CheckpointNames);
        Assert.Equal(0, holder.Registry.Ranges.Length);
        loading.GoOn.Set();
        HeldCheckpoint held = await replacing;

        Assert.Same(held, holder.FindCheckpoint("model"));
        SmallCheckpoint.AssertEqual(next.Tensors, held);
        Assert.True(await holder.UnregisterAsync("model", Cancel));
    }

    [Fact]
    public async Task Replace_ThatFails_LeavesTheOldOne()
    {
        using var old = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync();
        HeldCheckpoint held = await holder.RegisterAsync("model", [old.Path], Cancel);
        string tag = holder.GetMetas("model").EntityTag;

        await Assert.ThrowsAsync<CheckpointEngineException>(() => holder.RegisterAsync("model", ["/no/such/place"], null, new RegistrationOptions { Replace = true }, Cancel));

        Assert.Same(held, holder.FindCheckpoint("model"));
        Assert.Equal(tag, holder.GetMetas("model").EntityTag);
    }

    private static JoinOptions Into(string? directory) => new()
    {
        Transport = TransportChoice.Tcp,
        CheckpointName = "live",
        Destination = directory is null ? JoinDestinationKind.Memory : JoinDestinationKind.Directory,
        DirectoryPath = directory,
    };

    // Two chunks, one of them in the middle of a tensor of several.
    private static void Damage(string shard)
    {
        using FileStream file = File.OpenWrite(shard);
        file.Position = file.Length - 5;
        file.WriteByte(0x5a);
        file.WriteByte(0xa5);
    }

    private static async Task<ParameterServer> StartAsync()
    {
        var server = new ParameterServer(new ParameterServerOptions());
        await server.StartAsync(Cancel);
        return server;
    }

    // Holds a registration where it tells how far it is.
    private sealed class Loading : IProgress<LoadProgress>
    {
        internal TaskCompletionSource Reached { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

        internal ManualResetEventSlim GoOn { get; } = new();

        public void Report(LoadProgress value)
        {
            Reached.TrySetResult();
            GoOn.Wait(Cancel);
        }
    }
}
