using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

/// <summary>Several owners of the same tensors: read by load, and without those that die or hold something else.</summary>
public sealed class FailoverTests
{
    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(HoldMode.Map)]
    [InlineData(HoldMode.Anonymous)]      // packed by name: the tensors lie in another order there
    public async Task Join_OneOfTwoReplicasDiesAmidTheTransfer_IsReadFromTheOther(HoldMode hold)
    {
        using var files = SmallCheckpoint.OfManySizes();
        ParameterServer first = await HoldAsync(files, HoldMode.Map);
        await using ParameterServer second = await HoldAsync(files, hold);
        CheckpointMetas metas = CheckpointMetas.Combine(MetasOf(first), MetasOf(second));
        Assert.Equal(2, metas.Owners.Length);
        var seen = new Dictionary<string, byte[]>();

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(metas, InBuckets(bucket =>
        {
            if (bucket.Index == 0)
            {
                first.DisposeAsync().AsTask().Wait(Cancel);
            }
            for (int i = 0; i < bucket.TensorCount; i++)
            {
                seen.Add(bucket.Tensors.GetName(bucket.GetTensor(i)), bucket.GetBytes(i).ToArray());
            }
        }), null, Cancel);

        Assert.True(report.Verified);
        AssertEqual(files, seen);
        Assert.StartsWith("went on without rank 0 at ", Assert.Single(report.Warnings), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_Replicas_AreReadTogether()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer first = await HoldAsync(files, HoldMode.Map);
        await using ParameterServer second = await HoldAsync(files, HoldMode.Map);
        CheckpointMetas metas = CheckpointMetas.Combine(MetasOf(first), MetasOf(second));

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "copy", RequireVerify = true }, null, Cancel);

        Assert.Empty(report.Warnings);
        Assert.Equal(2, report.Planes.Count);
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("copy")!);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Join_AReplicaDiffersInOneByte_IsNamedAndTheFirstOnesBytesCount(bool atPublication)
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var others = SmallCheckpoint.OfManySizes();
        foreach (string tensor in atPublication ? ["big"] : others.Tensors.Keys.Where(name => others.Tensors[name].Length != 0))
        {
            ChangeOneByte(others, tensor);          // each: whichever are read from it, it is found
        }
        await using ParameterServer first = await HoldAsync(files, atPublication ? HoldMode.Anonymous : HoldMode.Map);
        await using ParameterServer second = await HoldAsync(others, atPublication ? HoldMode.Anonymous : HoldMode.Map);
        CheckpointMetas metas = CheckpointMetas.Combine(MetasOf(first), MetasOf(second));

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "copy", RequireVerify = true }, null, Cancel);

        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("copy")!);
        string warning = Assert.Single(report.Warnings);
        Assert.Contains("went on without rank 1", warning, StringComparison.Ordinal);
        Assert.Contains(atPublication ? "'big'" : "tensor '", warning, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public async Task Join_AReplicaThatIsGoneBeforeItBegins_IsLeftOut(int gone)
    {
        using var files = SmallCheckpoint.OfManySizes();
        ParameterServer[] holders = [await HoldAsync(files, HoldMode.Map), await HoldAsync(files, HoldMode.Map)];
        CheckpointMetas metas = CheckpointMetas.Combine(MetasOf(holders[0]), MetasOf(holders[1]));
        await holders[gone].DisposeAsync();
        await using ParameterServer left = holders[1 - gone];

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "copy", RequireVerify = true }, null, Cancel);

        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("copy")!);
        Assert.StartsWith($"went on without rank {gone} at ", Assert.Single(report.Warnings), StringComparison.Ordinal);
        Assert.Single(report.Planes);
    }

    [Fact]
    public async Task Join_AllReplicasAreGone_FailsAndNamesOne()
    {
        using var files = SmallCheckpoint.OfManySizes();
        ParameterServer[] holders = [await HoldAsync(files, HoldMode.Map), await HoldAsync(files, HoldMode.Map)];
        CheckpointMetas metas = CheckpointMetas.Combine(MetasOf(holders[0]), MetasOf(holders[1]));
        await holders[0].DisposeAsync();
        await holders[1].DisposeAsync();

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp }, null, Cancel));

        Assert.Equal(CheckpointError.Unreachable, failure.Error);
    }

    [Fact]
    public async Task Join_BothReplicasDieAmidTheTransfer_FailsAndLeavesNothing()
    {
        using var files = SmallCheckpoint.OfManySizes();
        ParameterServer first = await HoldAsync(files, HoldMode.Map);
        ParameterServer second = await HoldAsync(files, HoldMode.Map);
        CheckpointMetas metas = CheckpointMetas.Combine(MetasOf(first), MetasOf(second));

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(metas, InBuckets(bucket =>
        {
            if (bucket.Index == 0)
            {
                first.DisposeAsync().AsTask().Wait(Cancel);
                second.DisposeAsync().AsTask().Wait(Cancel);
            }
        }), null, Cancel));
    }

    [Fact]
    public async Task Join_TwoOwnersOfWhichEachHoldsSomethingAlone_NeedsBoth()
    {
        using var files = new SmallCheckpoint([("shared", TensorDtype.U8, [1 << 20]), ("a", TensorDtype.U8, [1 << 20])]);
        using var others = new SmallCheckpoint([("shared", TensorDtype.U8, [1 << 20]), ("b", TensorDtype.U8, [1 << 20])]);
        await using ParameterServer first = await HoldAsync(files, HoldMode.Map);
        ParameterServer second = await HoldAsync(others, HoldMode.Map);
        CheckpointMetas metas = CheckpointMetas.Combine(MetasOf(first), MetasOf(second));
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "copy" }, null, Cancel);
        Assert.Equal(3, report.Tensors);
        await second.DisposeAsync();

        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "again" }, null, Cancel));

        Assert.Equal(CheckpointError.Unreachable, failure.Error);
    }

    [Fact]
    public void Combine_OwnersOfOneRankAndOneToldTwice_AreThereOnceEach()
    {
        CheckpointMetas a = Metas("10.0.0.1:1", 0x1000);
        CheckpointMetas b = Metas("10.0.0.2:1", 0x1000);

        CheckpointMetas combined = CheckpointMetas.Combine(a, b, a);

        Assert.Equal([(0, "10.0.0.1:1"), (1, "10.0.0.2:1")], combined.Owners.ToArray().Select(owner => (owner.Rank, owner.P2pStoreAddress!)));

        static CheckpointMetas Metas(string address, ulong at)
        {
            using var builder = new CheckpointMetasBuilder();
            builder.AddTensor("t"u8, TensorDtype.U8, [16], 256);
            builder.EndBuffer(at, 256);
            builder.EndOwner(0, address, "");
            return builder.Build();
        }
    }

    private static void ChangeOneByte(SmallCheckpoint checkpoint, string tensor)
    {
        foreach (string file in Directory.GetFiles(checkpoint.Path, "*.safetensors"))
        {
            using var header = SafetensorsFile.Open(file);
            int found = header.Header.Tensors.IndexOf(System.Text.Encoding.UTF8.GetBytes(tensor));
            if (found >= 0)
            {
                using FileStream stream = File.Open(file, FileMode.Open, FileAccess.ReadWrite);
                stream.Position = header.DataStart + header.Header.Tensors.GetOffset(found) + checkpoint.Tensors[tensor].Length - 1;
                int last = stream.ReadByte();
                stream.Position--;
                stream.WriteByte((byte)(last ^ 1));
                return;
            }
        }
        Assert.Fail($"no tensor '{tensor}'");
    }

    private static void AssertEqual(SmallCheckpoint expected, Dictionary<string, byte[]> seen)
    {
        Assert.Equal(expected.Tensors.Count, seen.Count);
        Assert.All(expected.Tensors, tensor => Assert.True(tensor.Value.AsSpan().SequenceEqual(seen[tensor.Key]), tensor.Key));
    }

    private static CheckpointMetas MetasOf(ParameterServer server) => server.GetMetas("model").Metas;

    private static JoinOptions InBuckets(Action<JoinBucket> onBucket) => new()
    {
        Transport = TransportChoice.Tcp,
        Destination = JoinDestinationKind.Buckets,
        BucketBytes = 1,
        OnBucket = bucket => onBucket(bucket),
    };

    private static async Task<ParameterServer> HoldAsync(SmallCheckpoint files, HoldMode hold)
    {
        var server = new ParameterServer(new ParameterServerOptions { Hold = hold, DrainTimeout = TimeSpan.Zero });
        await server.StartAsync(Cancel);
        await server.RegisterAsync("model", [files.Path], Cancel);
        return server;
    }
}
