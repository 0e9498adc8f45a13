using System.Buffers;
using System.Diagnostics;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Tests;

/// <summary>Metas of Kimi-K2's size: 139,600 tensors of 256 owners.</summary>
[CollectionDefinition(nameof(MetasScaleTests), DisableParallelization = true)]
[Collection(nameof(MetasScaleTests))]
public class MetasScaleTests(ITestOutputHelper output)
{
    private const int MiB = 1 << 20;

    private delegate CheckpointMetas Reader(ReadOnlySpan<byte> document);

    [Fact]
    public void Read_Json_AllocatesLittleMoreThanTheModel()
        => Measure("JSON", MetasSamples.Json(MetasSamples.KimiK2()), MetasJsonReader.Read, maxAllocatedBytes: 20 * MiB);

    [Fact]
    public void Read_Pickle_AllocatesLittleMoreThanTheModel()
        => Measure("pickle", MetasSamples.Pickle(MetasSamples.KimiK2(), 4), MetasPickleReader.Read, maxAllocatedBytes: 20 * MiB);

    [Fact]
    public void Write_SecondTime_AllocatesNothingPerTensor()
    {
        CheckpointMetas metas = MetasSamples.KimiK2();
        var buffer = new ArrayBufferWriter<byte>(64 * MiB);
        foreach ((string what, Action write) in (ReadOnlySpan<(string, Action)>)[
            ("JSON", () => MetasJsonWriter.Write(metas, buffer)),
            ("pickle 2", () => MetasPickleWriter.Write(metas, buffer, 2)),
            ("pickle 4", () => MetasPickleWriter.Write(metas, buffer, 4))])
        {
            write();
            buffer.ResetWrittenCount();
            long before = GC.GetAllocatedBytesForCurrentThread();
            var watch = Stopwatch.StartNew();
            write();
            TimeSpan elapsed = watch.Elapsed;
            long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            output.WriteLine($"{what}: {buffer.WrittenCount:N0} bytes written in {elapsed.TotalMilliseconds:N1} ms, {allocated:N0} bytes allocated");
            Assert.True(allocated < 64 << 10, $"{what}: {allocated:N0} bytes for {metas.Tensors.Count:N0} tensors");
            buffer.ResetWrittenCount();
        }
    }

    private void Measure(string what, byte[] document, Reader read, long maxAllocatedBytes)
    {
        _ = read(document);
        long liveBefore = GC.GetTotalMemory(forceFullCollection: true);
        long before = GC.GetAllocatedBytesForCurrentThread();
        var watch = Stopwatch.StartNew();
        CheckpointMetas metas = read(document);
        TimeSpan elapsed = watch.Elapsed;
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        long retained = GC.GetTotalMemory(forceFullCollection: true) - liveBefore;
        output.WriteLine($"{what}: {document.Length:N0} bytes read in {elapsed.TotalMilliseconds:N1} ms, {allocated:N0} bytes allocated, {retained:N0} retained");
        Assert.Equal((139_600, 256), (metas.Tensors.Count, metas.Owners.Length));
        Assert.True(allocated < maxAllocatedBytes, $"{allocated:N0} bytes allocated");
        Assert.True(retained < 16 * MiB, $"{retained:N0} bytes retained");
        Assert.True(elapsed < TimeSpan.FromSeconds(3), $"{elapsed}");    // a bound for slow and shared machines; benchmarks measure
        GC.KeepAlive(metas);
    }
}
