using System.Diagnostics;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Join;
using CheckpointEngine.Metas;
using CheckpointEngine.Planning;
using CsCheck;

namespace CheckpointEngine.Tests;

public sealed class TransferPlanTests
{
    private const int Chunk = TensorDigest.ChunkBytes;

    // Slots beside the sizes that decide: nothing, a byte, around a chunk, gaps around a page.
    private static readonly Gen<(int Length, int Gap)> s_tensor = Gen.Select(
        Gen.Frequency((2, Gen.Const(0)), (6, Gen.Int[1, 5000]), (1, Choose(Chunk - 1, Chunk, Chunk + 1, 2 * Chunk, 2 * Chunk + 7))),
        Gen.OneOf(Gen.Const(0), Gen.Int[0, 255], Choose(4095, 4096, 4097, 10000)));

    internal static readonly Gen<(int Length, int Gap)[][][]> World = s_tensor.Array[0, 12].Array[1, 3].Array[1, 3];

    private static Gen<T> Choose<T>(params T[] values) => Gen.Int[0, values.Length - 1].Select(index => values[index]);

    internal static CheckpointMetas Build((int Length, int Gap)[][][] world, Func<int, int, string>? name = null)
    {
        using var builder = new CheckpointMetasBuilder();
        int tensor = 0;
        for (int rank = 0; rank < world.Length; rank++)
        {
            ulong at = 0x10_0000UL * (ulong)(rank + 1) << 8;
            int ofOwner = 0;
            foreach ((int Length, int Gap)[] buffer in world[rank])
            {
                long size = 0;
                foreach ((int length, int gap) in buffer)
                {
                    builder.AddTensor(Encoding.UTF8.GetBytes(name?.Invoke(rank, ofOwner++) ?? $"t{tensor}"), TensorDtype.U8, [length], (long)length + gap);
                    size += (long)length + gap;
                    tensor++;
                }
                builder.EndBuffer(at, size);
                at += (ulong)size;
            }
            builder.EndOwner(rank, $"127.0.0.1:{1000 + rank}", "");
        }
        return builder.Build();
    }

    private static List<ReadUnit> UnitsOf(TransferPlan plan, int owner)
    {
        var cursor = new ReadUnitCursor(plan, owner);
        var units = new List<ReadUnit>();
        while (cursor.TryTake(out ReadUnit unit))
        {
            units.Add(unit);
        }
        Assert.True(cursor.IsAtEnd);
        return units;
    }

    [Fact]
    public void Units_OfAnyPlan_CoverEveryByteOnceWithinRangesAndChunks()
        => World.Where(world => world.Any(owner => owner.Any(buffer => buffer.Length != 0))).Sample(world =>
        {
            CheckpointMetas metas = Build(world);
            TransferPlan plan = TransferPlanner.Plan(metas, TensorFilter.All);
            Assert.Equal(metas.Tensors.Count, plan.Tensors.Count);
            var seen = new long[plan.Tensors.Count];       // tensor bytes that units have brought, in order
            for (int owner = 0; owner < metas.Owners.Length; owner++)
            {
                foreach (ReadUnit unit in UnitsOf(plan, owner))
                {
                    ReadRange range = plan.Ranges[unit.Range];
                    Assert.Equal(owner, range.Owner);
                    Assert.InRange(unit.LengthBytes, 0, Chunk);
                    Assert.InRange(unit.OffsetInRange, 0, range.LengthBytes);
                    Assert.InRange(unit.OffsetInRange + unit.LengthBytes, 0, range.LengthBytes);
                    Assert.Equal(0, unit.FirstTensorOffset % Chunk);
                    long unitStart = range.DestinationOffset + unit.OffsetInRange;
                    Assert.Equal(plan.Tensors.GetOffset(unit.FirstTensor) + unit.FirstTensorOffset, unitStart);
                    for (int tensor = range.FirstTensor; tensor < range.FirstTensor + range.TensorCount; tensor++)
                    {
                        long from = Math.Max(plan.Tensors.GetOffset(tensor), unitStart);
                        long to = Math.Min(plan.Tensors.GetOffset(tensor) + plan.Tensors.GetByteLength(tensor), unitStart + unit.LengthBytes);
                        if (from < to)
                        {
                            Assert.Equal(plan.Tensors.GetOffset(tensor) + seen[tensor], from);
                            seen[tensor] += to - from;
                            Assert.True(seen[tensor] % Chunk == 0 || seen[tensor] == plan.Tensors.GetByteLength(tensor));
                        }
                    }
                }
            }
            for (int tensor = 0; tensor < seen.Length; tensor++)
            {
                Assert.Equal(plan.Tensors.GetByteLength(tensor), seen[tensor]);
            }
            Assert.Equal(metas.DataBytes, plan.DataBytes);
        }, iter: 150);

    [Fact]
    public void Units_CopiedFromOwnersToBuffers_GiveEveryTensor()
        => World.Where(world => world.Any(owner => owner.Any(buffer => buffer.Length != 0))).Sample(world =>
        {
            CheckpointMetas metas = Build(world);
            TransferPlan plan = TransferPlanner.Plan(metas, new TensorFilter(["t*[02468]", "t1", "t7"], ["t4"]) is var filter && Matches(metas, filter) ? filter : TensorFilter.All);
            byte[][] destinations = [.. plan.Buffers.ToArray().Select(buffer => new byte[buffer.SizeBytes])];
            for (int owner = 0; owner < metas.Owners.Length; owner++)
            {
                foreach (ReadUnit unit in UnitsOf(plan, owner))
                {
                    ReadRange range = plan.Ranges[unit.Range];
                    Span<byte> destination = destinations[range.Buffer].AsSpan((int)(range.DestinationOffset + unit.OffsetInRange), unit.LengthBytes);
                    ulong remote = range.RemoteAddress + (ulong)unit.OffsetInRange;
                    for (int i = 0; i < destination.Length; i++)
                    {
                        destination[i] = ContentAt(remote + (ulong)i);
                    }
                }
            }
            for (int b = 0; b < plan.Buffers.Length; b++)
            {
                PlannedBuffer buffer = plan.Buffers[b];
                for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
                {
                    int source = plan.GetSourceTensor(tensor);
                    Assert.Equal(metas.Tensors.GetName(source), plan.Tensors.GetName(tensor));
                    MetasBuffer from = metas.Owners[buffer.Owner].Buffers[buffer.SourceBuffer];
                    ulong address = from.Address + (ulong)metas.Tensors.GetOffset(source);
                    ReadOnlySpan<byte> got = destinations[b].AsSpan((int)plan.Tensors.GetOffset(tensor), (int)plan.Tensors.GetByteLength(tensor));
                    for (int i = 0; i < got.Length; i++)
                    {
                        if (got[i] != ContentAt(address + (ulong)i))
                        {
                            Assert.Fail($"tensor {tensor} differs at {i}");
                        }
                    }
                }
            }
        }, iter: 40);

    private static byte ContentAt(ulong address) => (byte)((address * 0x9E37_79B9_7F4A_7C15UL) >> 56);

    private static bool Matches(CheckpointMetas metas, TensorFilter filter)
        => Enumerable.Range(0, metas.Tensors.Count).Any(tensor => filter.Takes(metas.Tensors.GetNameUtf8(tensor)));

    [Fact]
    public void Plan_AnyPatterns_TakesExactlyWhatTheFilterTakes()
        => Gen.Select(World, Choose("t1*", "t?", "*", "t[0-4]", "none"), Choose("t2", "t*3", "*", "t9*")).Sample((world, include, exclude) =>
        {
            CheckpointMetas metas = Build(world);
            var filter = new TensorFilter([include], [exclude]);
            string[] expected = [.. Enumerable.Range(0, metas.Tensors.Count).Where(tensor => filter.Takes(metas.Tensors.GetNameUtf8(tensor))).Select(metas.Tensors.GetName)];
            if (expected.Length == 0)
            {
                Assert.Equal(CheckpointError.NotFound, Assert.Throws<CheckpointEngineException>(() => TransferPlanner.Plan(metas, filter)).Error);
                return;
            }
            TransferPlan plan = TransferPlanner.Plan(metas, filter);
            Assert.Equal(expected, Enumerable.Range(0, plan.Tensors.Count).Select(plan.Tensors.GetName));
        }, iter: 150);

    [Fact]
    public void Plan_TensorsThatAllOwnersHold_AreReadOnceAndShared()
        => Gen.Int[1, 3000].Array[4, 40].Sample(lengths =>
        {
            (int, int)[] buffer = [.. lengths.Select(length => (length, 0))];
            CheckpointMetas metas = Build([[buffer], [buffer], [buffer]], (_, tensor) => $"shared{tensor}");
            TransferPlan plan = TransferPlanner.Plan(metas, TensorFilter.All);
            Assert.Equal(lengths.Length, plan.Tensors.Count);
            Assert.Equal(lengths.Sum(length => (long)length), plan.DataBytes);
            Assert.Equal(-1, plan.Tensors.FindDuplicateName());
            // Each went to who had least: nobody is ahead of another by more than the largest tensor.
            Assert.InRange(plan.OwnerBytes.ToArray().Max() - plan.OwnerBytes.ToArray().Min(), 0, lengths.Max());
        }, iter: 200);

    [Fact]
    public void Plan_ReplicaBesideAnOwnersOwnLoad_IsReadFromTheIdleOne()
    {
        CheckpointMetas metas = Build([[[(1000, 0), (50, 0)]], [[(10, 0), (50, 0)]]], (rank, tensor) => tensor == 1 ? "shared" : $"own{rank}");
        TransferPlan plan = TransferPlanner.Plan(metas, TensorFilter.All);
        Assert.Equal([1000L, 60L], plan.OwnerBytes.ToArray());
    }

    [Fact]
    public void Plan_ReplicasThatDiffer_AreRefused()
    {
        CheckpointMetas metas = Build([[[(10, 0)]], [[(11, 0)]]], (_, _) => "shared");
        Assert.Equal(CheckpointError.InvalidData, Assert.Throws<CheckpointEngineException>(() => TransferPlanner.Plan(metas, TensorFilter.All)).Error);
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(4096, 1)]
    [InlineData(4097, 2)]
    [InlineData(1 << 20, 2)]
    public void Plan_PaddingBetweenTwoTensors_SplitsTheRunAbove4096(int gap, int ranges)
    {
        TransferPlan plan = TransferPlanner.Plan(Build([[[(100, gap), (100, 0)]]]), TensorFilter.All);
        Assert.Equal(ranges, plan.Ranges.Length);
        Assert.InRange(plan.Buffers[0].SizeBytes, 200, 200 + 4096 + 512);
    }

    [Fact]
    public void Units_EmptyTensorWithPaddingBeforeAWholeChunk_AreNoLongerThanAChunk()
    {
        TransferPlan plan = TransferPlanner.Plan(Build([[[(0, 4096), (0, 100), (Chunk, 0), (0, 0), (5, 0)]]]), TensorFilter.All);
        List<ReadUnit> units = UnitsOf(plan, 0);
        Assert.Equal([Chunk, 5], units.Select(unit => unit.LengthBytes));
        Assert.Equal(Chunk + 5, units.Sum(unit => unit.LengthBytes));
    }

    [Fact]
    public void Plan_OnlyEmptyTensors_ReadsNothing()
    {
        TransferPlan plan = TransferPlanner.Plan(Build([[[(0, 0), (0, 64)]]]), TensorFilter.All);
        Assert.Equal(2, plan.Tensors.Count);
        Assert.Equal(0, plan.Ranges.Length);
        Assert.Empty(UnitsOf(plan, 0));
        Assert.False(new OwnerWork(plan, 0, new NullDestination()).TryTake(out _));
    }

    [Theory]
    [InlineData(1L << 62)]
    [InlineData((1L << 47) + 1)]
    public void Plan_MoreBytesThanAnAddressSpace_IsRefused(long length)
    {
        using var builder = new CheckpointMetasBuilder();
        builder.AddTensor("huge"u8, TensorDtype.U8, [length], length);
        builder.EndBuffer(4096, length);
        builder.EndOwner(0, "127.0.0.1:1", "");
        CheckpointMetas metas = builder.Build();
        Assert.Equal(CheckpointError.InvalidData, Assert.Throws<CheckpointEngineException>(() => TransferPlanner.Plan(metas, TensorFilter.All)).Error);
    }

    [Fact]
    public void Plan_AsManyTensorsAsKimiK2Has_TakesMilliseconds()
    {
        CheckpointMetas metas = MetasSamples.KimiK2();
        TransferPlanner.Plan(metas, TensorFilter.All);
        double best = Enumerable.Range(0, 5).Min(_ =>
        {
            long start = Stopwatch.GetTimestamp();
            Assert.Equal(139_600, TransferPlanner.Plan(metas, TensorFilter.All).Tensors.Count);
            return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        });
        Assert.True(best < 500, $"{best:0} ms");
        TestContext.Current.TestOutputHelper?.WriteLine($"{best:0.0} ms");
    }

    [Fact]
    public void OwnerWork_TakenAndGivenBack_CountsWhatIsLeft()
    {
        TransferPlan plan = TransferPlanner.Plan(Build([[[(3 * Chunk, 100), (7, 0)]]]), TensorFilter.All);
        var work = new OwnerWork(plan, 0, new NullDestination());
        Assert.True(work.TryTake(out ReadUnit first));
        long left = work.RemainingBytes;
        work.GiveBack(first);
        Assert.Equal(left + first.LengthBytes, work.RemainingBytes);
        long bytes = 0;
        while (work.TryTake(out ReadUnit unit))
        {
            bytes += unit.LengthBytes;
        }
        Assert.Equal(3 * Chunk + 7, bytes);
        Assert.Equal(0, work.RemainingBytes);
    }
}
