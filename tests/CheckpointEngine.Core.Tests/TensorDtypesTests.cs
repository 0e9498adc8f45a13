using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Tests;

public class TensorDtypesTests
{
    [Theory]
    [InlineData(TensorDtype.BF16, new long[] { 3, 4 }, 24)]
    [InlineData(TensorDtype.F32, new long[] { }, 4)]
    [InlineData(TensorDtype.I8, new long[] { 3, 0, 2 }, 0)]
    [InlineData(TensorDtype.F4, new long[] { 3, 2 }, 3)]
    [InlineData(TensorDtype.F4, new long[] { 3 }, -1)]
    [InlineData(TensorDtype.F6E2M3, new long[] { 4 }, 3)]
    [InlineData(TensorDtype.U8, new long[] { -1 }, -1)]
    [InlineData(TensorDtype.U8, new long[] { long.MaxValue, 2 }, -1)]
    [InlineData(TensorDtype.U8, new long[] { long.MaxValue, 2, 0 }, 0)]
    [InlineData(TensorDtype.F64, new long[] { 1L << 60 }, -1)]
    public void ByteLength_Shape_IsElementsTimesWidthOrRefused(TensorDtype dtype, long[] shape, long expected)
        => Assert.Equal(expected, dtype.ByteLength(shape));
}
