using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Tests.Inference;

[Collection(CountsMemory.Name)]
public sealed class RepeatedUpdateTests
{
    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Update_FiftyInARow_LeaveNothing()
    {
        using var files = new SmallCheckpoint([.. Enumerable.Range(0, 20).Select(i => ($"layers.{i}.w", TensorDtype.F16, new long[] { 100 + i, 65 }))]);
        await using var server = new ParameterServer(new ParameterServerOptions());
        HeldCheckpoint held = await server.RegisterAsync("m", [files.Path], Stop);
        await using InferenceServer inference = await InferenceServer.StartAsync("--workers", "2");
        InferenceUpdateOptions options = inference.Options(workers: 2);
        for (int warm = 0; warm < 5; warm++)
        {
            await server.UpdateAsync("m", options, null, Stop);
        }
        (int descriptors, int threads, long memory) = Count();
        long mapped = MemoryRegionHandle.LiveBytes;
        for (int i = 0; i < 50; i++)
        {
            await server.UpdateAsync("m", options, null, Stop);
        }
        (int descriptorsAfter, int threadsAfter, long memoryAfter) = Count();
        Assert.Equal(mapped, MemoryRegionHandle.LiveBytes);
        Assert.True(descriptorsAfter <= descriptors + 5, $"{descriptors} descriptors, then {descriptorsAfter}");
        Assert.True(threadsAfter <= threads + 10, $"{threads} threads, then {threadsAfter}");       // the pool's come and go
        Assert.True(memoryAfter <= memory + (32 << 20), $"{memory:N0} bytes, then {memoryAfter:N0}");
        await inference.AssertHasAsync(held, 2, (await server.UpdateAsync("m", options, null, Stop)).Buckets.Count);

        static (int, int, long) Count()
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
            GC.Collect();
            string[] status = File.ReadAllLines("/proc/self/status");
            long Field(string name) => long.Parse(status.First(line => line.StartsWith(name, StringComparison.Ordinal)).Split(':')[1].Replace("kB", "", StringComparison.Ordinal).Trim(), System.Globalization.CultureInfo.InvariantCulture);
            return (Directory.GetFiles("/proc/self/fd").Length, (int)Field("Threads"), Field("VmRSS") << 10);
        }
    }
}
