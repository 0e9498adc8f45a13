using CheckpointEngine.Http.Replies;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Http.Tests.Replies;

public class ChunkedBufferTests
{
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(4096)]
    [InlineData(4097)]
    [InlineData(5_000_000)]
    public async Task Write_OfAnyLength_ComesBack(int length)
    {
        byte[] expected = new byte[length];
        new Random(length).NextBytes(expected);
        var buffer = new ChunkedBuffer();
        for (int at = 0; at < length;)
        {
            int count = Math.Min(length - at, 1 + (at * 7 % 9973));
            buffer.Write(expected.AsSpan(at, count));
            at += count;
        }
        Assert.Equal(length, buffer.Length);
        Assert.True(expected.AsSpan().SequenceEqual(buffer.ToSpan()));
        using var copy = new MemoryStream();
        await buffer.CopyToAsync(copy, TestServer.Cancellation);
        Assert.True(expected.AsSpan().SequenceEqual(copy.ToArray()));
    }

    [Theory]
    [InlineData(MetasFormat.Json, 2_000)]
    [InlineData(MetasFormat.Json, 139_600)]
    public void Encode_OfManyTensors_AllocatesAboutItsSize(MetasFormat format, int tensors)
    {
        CheckpointMetas metas = Samples.Many(tensors);
        MetasDocument.Write(Samples.Many(10), format, new ChunkedBuffer());
        long before = GC.GetAllocatedBytesForCurrentThread();
        var buffer = new ChunkedBuffer();
        MetasDocument.Write(metas, format, buffer);
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        TestContext.Current.SendDiagnosticMessage($"{tensors} tensors as {format}: {buffer.Length:N0} bytes, {allocated:N0} allocated");
        Assert.InRange(allocated, buffer.Length, (buffer.Length * 5 / 4) + 20_000);
    }
}
