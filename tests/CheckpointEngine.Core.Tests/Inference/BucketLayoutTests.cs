using System.Buffers;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;
using CsCheck;

namespace CheckpointEngine.Tests.Inference;

public sealed class BucketLayoutTests
{
    [Fact]
    public void Make_AnySizes_EveryTensorLiesAlignedInItsBucketWithoutOverlap()
        => Gen.Select(Gen.Int[0, 5000].Array[0, 60], Gen.Int[5000, 20_000], Gen.Int[0, 25_000]).Sample((sizes, bucketBytes, filledBytes) =>
        {
            TensorTable tensors = Table(sizes);
            BucketLayout layout = BucketLayout.Make(tensors, bucketBytes, filledBytes);
            int next = 0;
            long lastEnd = 0;
            for (int bucket = 0; bucket < layout.Count; bucket++)
            {
                Assert.Equal(next, layout.FirstTensor(bucket));
                Assert.True(layout.TensorCount(bucket) > 0);
                long end = 0;
                long data = 0;
                for (int tensor = next; tensor < next + layout.TensorCount(bucket); tensor++)
                {
                    Assert.Equal(0, layout.OffsetOf(tensor) % BucketLayout.Alignment);
                    Assert.True(layout.OffsetOf(tensor) >= end);
                    end = layout.OffsetOf(tensor) + sizes[tensor];
                    data += sizes[tensor];
                }
                Assert.True(end <= bucketBytes);
                Assert.True(end <= filledBytes || layout.TensorCount(bucket) == 1 || sizes.AsSpan(next, layout.TensorCount(bucket) - 1).IndexOfAnyExcept(0) < 0);
                if (bucket != 0)
                {
                    Assert.True(Align(lastEnd) + sizes[next] > Math.Min(bucketBytes, filledBytes));      // or it would have been put there
                }
                lastEnd = end;
                Assert.Equal(data, layout.DataBytes(bucket));
                next += layout.TensorCount(bucket);
            }
            Assert.Equal(sizes.Length, next);
        });

    [Fact]
    public void Make_TensorLargerThanABucket_NamesTheVariable()
    {
        CheckpointEngineException failure = Assert.Throws<CheckpointEngineException>(() => BucketLayout.Make(Table([10, 5000]), 4096, 4096));
        Assert.Contains("PS_MAX_BUCKET_SIZE_GB", failure.Message, StringComparison.Ordinal);
        Assert.Contains("'t1'", failure.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1000, 1 << 20, 1 << 20, 1024 + 2048)]     // all fit: no more than they take
    [InlineData(1000, 1 << 20, 1024, 2048)]                     // the limit gives way to the largest tensor
    [InlineData(1000, 2048, 1 << 20, 2048)]
    public void ChooseSize_Limits_AreKept(int small, long wanted, long most, long expected)
        => Assert.Equal(expected, BucketLayout.ChooseSize(Table([small, 2000]), wanted, new BucketLimits(most, 1 << 20)));

    [Fact]
    public void ChooseSize_TensorLargerThanTheDevice_NamesTheVariables()
    {
        CheckpointEngineException failure = Assert.Throws<CheckpointEngineException>(() => BucketLayout.ChooseSize(Table([5000]), 1 << 20, new BucketLimits(1 << 20, 4096)));
        Assert.Equal(CheckpointError.OutOfMemory, failure.Error);
        Assert.Contains("PS_MEM_FRACTION", failure.Message, StringComparison.Ordinal);
        Assert.Contains("PS_MAX_BUCKET_SIZE_GB", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void WriteException_Text_IsAPickleOfARuntimeError()
    {
        var output = new ArrayBufferWriter<byte>();
        UpdateMessages.WriteException(output, "ü");
        // pickletools.dis of pickle.dumps(RuntimeError("ü"), 4), without memo and with one string for each part.
        byte[] expected = [0x80, 4, 0x95, 34, 0, 0, 0, 0, 0, 0, 0, 0x8c, 8, .. "builtins"u8, 0x8c, 12, .. "RuntimeError"u8, 0x93, 0x8c, 2, .. "ü"u8, 0x85, (byte)'R', (byte)'.'];
        expected[3] = (byte)(expected.Length - 11);
        Assert.Equal(expected, output.WrittenSpan.ToArray());
    }

    private static long Align(long bytes) => (bytes + BucketLayout.Alignment - 1) / BucketLayout.Alignment * BucketLayout.Alignment;

    private static TensorTable Table(int[] sizes)
    {
        using var builder = new TensorTableBuilder();
        for (int i = 0; i < sizes.Length; i++)
        {
            builder.Add(Encoding.UTF8.GetBytes($"t{i}"), TensorDtype.U8, [sizes[i]], sizes[i], 0);
        }
        return builder.Build();
    }
}
