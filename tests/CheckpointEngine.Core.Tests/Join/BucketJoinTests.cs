using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Planning;
using CheckpointEngine.Transfer;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>Joins that hand whole tensors out bucket by bucket.</summary>
public sealed class BucketJoinTests
{
    private static async Task<ParameterServer> StartAsync(int rank = 0)
    {
        var server = new ParameterServer(new ParameterServerOptions { Rank = rank });
        await server.StartAsync(TestContext.Current.CancellationToken);
        return server;
    }

    [Theory]
    [InlineData(1)]
    [InlineData(1 << 20)]
    [InlineData(9 << 20)]
    [InlineData(1 << 30)]
    public async Task Buckets_BringEveryTensorOnceAndWhole(long bucketBytes)
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var seen = new Dictionary<string, byte[]>();
        int next = 0;
        long largest = files.Tensors.Values.Max(tensor => (long)tensor.Length);
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions
        {
            Transport = TransportChoice.Tcp,
            Destination = JoinDestinationKind.Buckets,
            RequireVerify = true,
            BucketBytes = bucketBytes,
            OnBucket = bucket =>
            {
                Assert.Equal(next++, bucket.Index);
                Assert.InRange(bucket.SizeBytes, 0, Math.Max(bucketBytes, largest) + 4096);
                for (int i = 0; i < bucket.TensorCount; i++)
                {
                    Assert.InRange(bucket.GetAddress(i), bucket.Address, bucket.Address + (nint)bucket.SizeBytes);
                    seen.Add(bucket.Tensors.GetName(bucket.GetTensor(i)), bucket.GetBytes(i).ToArray());
                    bucket.GetBytes(i).Clear();         // it is ours until the return
                }
            },
        }, null, cancel);
        Assert.True(report.Verified);
        Assert.Equal(next, report.Buckets);
        Assert.Equal(files.Tensors.Keys.Order(), seen.Keys.Order());
        foreach ((string name, byte[] bytes) in files.Tensors)
        {
            Assert.True(bytes.AsSpan().SequenceEqual(seen[name]), name);
        }
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(6, 0)]
    [InlineData(6, 1)]      // one lane for six owners: it goes from owner to owner within a bucket
    public async Task Buckets_OfSeveralOwners_AreComplete(int owners, int lanes)
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        var holders = new List<ParameterServer>();
        var files = new List<SmallCheckpoint>();
        try
        {
            for (int rank = 0; rank < owners; rank++)
            {
                var part = new SmallCheckpoint([.. Enumerable.Range(0, 8).Select(i => ($"r{rank}.t{i}", TensorDtype.U8, new long[] { 100_000 + (i * 40_000 * (rank + 1)) }))]);
                files.Add(part);
                ParameterServer holder = await StartAsync(rank);
                holders.Add(holder);
                await holder.RegisterAsync("model", [part.Path], cancel);
            }
            CheckpointMetas metas = CheckpointMetas.Merge([.. holders.Select(holder => holder.GetMetas("model").Metas)]);
            await using var joiner = new ParameterServer(new ParameterServerOptions());
            var seen = new Dictionary<string, byte[]>();
            JoinReport report = await joiner.JoinAsync(metas, new JoinOptions
            {
                Transport = TransportChoice.Tcp,
                Destination = JoinDestinationKind.Buckets,
                RequireVerify = true,
                Lanes = lanes,
                BucketBytes = 1 << 20,
                OnBucket = bucket =>
                {
                    for (int i = 0; i < bucket.TensorCount; i++)
                    {
                        seen.Add(bucket.Tensors.GetName(bucket.GetTensor(i)), bucket.GetBytes(i).ToArray());
                    }
                },
            }, null, cancel);
            Assert.True(report.Buckets > 1);
            foreach ((string name, byte[] bytes) in files.SelectMany(part => part.Tensors))
            {
                Assert.True(bytes.AsSpan().SequenceEqual(seen[name]), name);
            }
            Assert.Equal(owners * 8, seen.Count);
        }
        finally
        {
            foreach (ParameterServer holder in holders)
            {
                await holder.DisposeAsync();
            }
            files.ForEach(part => part.Dispose());
        }
    }

    [Fact]
    public async Task Buckets_TheNextOneComesWhileOneIsConsumed_AndNoMore()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = new SmallCheckpoint([.. Enumerable.Range(0, 10).Select(i => ($"t{i}", TensorDtype.U8, new long[] { 1 << 20 }))]);
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        long arrived = 0;
        var progress = new Progress(report => Volatile.Write(ref arrived, report.BytesDone));
        await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions
        {
            Transport = TransportChoice.Tcp,
            Destination = JoinDestinationKind.Buckets,
            BucketBytes = 1 << 20,
            OnBucket = bucket =>
            {
                long expected = Math.Min(10, bucket.Index + 2L) << 20;
                Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref arrived) == expected, TimeSpan.FromSeconds(20)), $"bucket {bucket.Index}: {arrived:N0} of {expected:N0}");
                Thread.Yield();
                Assert.Equal(expected, Volatile.Read(ref arrived));
            },
        }, progress, cancel);
    }

    private sealed class Progress(Action<JoinProgress> report) : IProgress<JoinProgress>
    {
        public void Report(JoinProgress value) => report(value);
    }

    [Fact]
    public async Task Buckets_HandlerThatThrows_EndsTheJoinWithItsException()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        int calls = 0;
        foreach (int at in new[] { 0, 2 })
        {
            calls = 0;
            await Assert.ThrowsAsync<InvalidTimeZoneException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions
            {
                Transport = TransportChoice.Tcp,
                Destination = JoinDestinationKind.Buckets,
                BucketBytes = 1 << 20,
                OnBucket = bucket => _ = calls++ == at ? throw new InvalidTimeZoneException("mine") : 0,
            }, null, cancel));
            Assert.Equal(at + 1, calls);
        }
    }

    [Fact]
    public async Task Buckets_CancelledInAHandler_EndAfterItHasReturned()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], TestContext.Current.CancellationToken);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        bool returned = false;
        int calls = 0;
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions
        {
            Transport = TransportChoice.Tcp,
            Destination = JoinDestinationKind.Buckets,
            BucketBytes = 1 << 20,
            OnBucket = _ =>
            {
                calls++;
                cancel.Cancel();
                Thread.Yield();
                Volatile.Write(ref returned, true);
            },
        }, null, cancel.Token));
        Assert.True(Volatile.Read(ref returned));
        Assert.Equal(1, calls);
    }

    [Fact]
    public async Task Buckets_DamagedBytes_AreNeverHandedOut()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = new SmallCheckpoint([.. Enumerable.Range(0, 6).Select(i => ($"t{i}", TensorDtype.U8, new long[] { 1 << 20 }))]);
        await using var holder = new ParameterServer(new ParameterServerOptions { Hold = HoldMode.Anonymous });
        await holder.StartAsync(cancel);
        HeldCheckpoint held = await holder.RegisterAsync("model", [files.Path], cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Null, RequireVerify = true }, null, cancel);   // all digests are there now
        held.Buffers[0].Memory.GetSpan((3 << 20) + 5, 1)[0] ^= 1;
        var handed = new List<int>();
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions
        {
            Transport = TransportChoice.Tcp,
            Destination = JoinDestinationKind.Buckets,
            BucketBytes = 1 << 20,
            OnBucket = bucket => handed.Add(bucket.Index),
        }, null, cancel));
        Assert.Equal(CheckpointError.DigestMismatch, failure.Error);
        Assert.DoesNotContain(3, handed);
    }

    [Fact]
    public async Task Buckets_OptionsThatCannotBe_AreArgumentErrors()
    {
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await Assert.ThrowsAsync<ArgumentNullException>(() => joiner.JoinAsync(CheckpointMetas.Empty, new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Buckets }, null, TestContext.Current.CancellationToken));
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => joiner.JoinAsync(CheckpointMetas.Empty, new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Buckets, OnBucket = _ => { }, BucketBytes = 0 }, null, TestContext.Current.CancellationToken));
    }

    [Fact]
    public void BucketPlan_AnyWorld_HasEveryTensorOnceAndEveryByteInOneUnit()
        => TransferPlanTests.World.Select(Gen.Long[1, 1 << 23]).Sample((world, bucketBytes) =>
        {
            CheckpointMetas metas = TransferPlanTests.Build(world);
            if (metas.Tensors.Count == 0)
            {
                return;
            }
            TransferPlan plan = TransferPlanner.Plan(metas, TensorFilter.All);
            var buckets = new BucketPlan(plan, bucketBytes);
            var seen = new HashSet<int>();
            var places = new List<(long Start, long End)>[buckets.Count];
            for (int bucket = 0; bucket < buckets.Count; bucket++)
            {
                Assert.NotEqual(0, buckets.TensorsOf(bucket).Length);
                places[bucket] = [];
                foreach (BucketPlan.Entry entry in buckets.TensorsOf(bucket))
                {
                    Assert.True(seen.Add(entry.Tensor));
                    long length = plan.Tensors.GetByteLength(entry.Tensor);
                    Assert.InRange(entry.Offset + length, 0, length == 0 ? long.MaxValue : buckets.SizeOf(bucket));
                    places[bucket].Add((entry.Offset, entry.Offset + length));
                }
                // Nobody's bytes lie in somebody else's.
                (long Start, long End)[] sorted = [.. places[bucket].Where(place => place.End > place.Start).Order()];
                for (int i = 1; i < sorted.Length; i++)
                {
                    Assert.True(sorted[i - 1].End <= sorted[i].Start);
                }
            }
            Assert.Equal(plan.Tensors.Count, seen.Count);

            var units = new int[buckets.Count];
            long bytes = 0;
            for (int owner = 0; owner < metas.Owners.Length; owner++)
            {
                int last = 0;
                var cursor = new ReadUnitCursor(buckets.Plan, owner);
                while (cursor.TryTake(out ReadUnit unit))
                {
                    int bucket = buckets.BucketOf(unit);
                    Assert.True(bucket >= last, "an owner gives its buckets in order");
                    last = bucket;
                    units[bucket] += unit.LengthBytes == 0 ? 0 : 1;
                    Assert.InRange(buckets.OffsetOf(unit) + unit.LengthBytes, 0, buckets.SizeOf(bucket));
                    bytes += unit.LengthBytes;
                }
            }
            Assert.True(bytes >= plan.DataBytes);
            Assert.Equal(units, Enumerable.Range(0, buckets.Count).Select(buckets.UnitsOf));
        }, iter: 400);
}
