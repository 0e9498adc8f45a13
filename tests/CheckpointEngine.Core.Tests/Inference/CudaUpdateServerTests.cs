using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Tests.Inference;

/// <summary>Updates of a stand-in for a server whose workers have GPUs and torch.</summary>
public sealed class CudaUpdateServerTests : IAsyncLifetime
{
    private readonly SmallCheckpoint _files = new(
        [("embed", TensorDtype.BF16, [1000, 300]), ("empty", TensorDtype.F32, [0, 5]), ("scalar", TensorDtype.F32, []), ("größe", TensorDtype.U8, [3, 5])],
        [.. Enumerable.Range(0, 60).Select(i => ($"layers.{i}.w", TensorDtype.F16, new long[] { 160 + i, 65 }))]);

    private readonly ParameterServer _server = new(new ParameterServerOptions());

    public ValueTask InitializeAsync() => ValueTask.CompletedTask;

    public async ValueTask DisposeAsync()
    {
        await _server.DisposeAsync();
        _files.Dispose();
    }

    [Theory]
    [InlineData("0.4", WorkerProtocol.V04)]
    [InlineData("0.2", WorkerProtocol.V02)]
    public async Task Update_EveryGpu_HasEveryTensor(string generation, WorkerProtocol protocol)
    {
        if (!CudaDevices.IsSupported(out string? reason))
        {
            Assert.Skip($"this test needs a GPU: {reason}");
        }
        string[] names = CudaDevices.Names();
        HeldCheckpoint held = await _server.RegisterAsync("m", [_files.Path], TestContext.Current.CancellationToken);
        await using InferenceServer inference = await InferenceServer.StartAsync("--torch", "--generation", generation, "--workers", $"{names.Length}", "--devices", string.Join(',', names));
        InferenceUpdateOptions options = inference.Options(workers: names.Length);
        options.Devices = UpdateDeviceKind.Cuda;
        options.WorkerProtocol = protocol;
        options.BucketBytes = 1 << 20;
        for (int update = 0; update < 2; update++)
        {
            InferenceUpdateReport report = await _server.UpdateAsync("m", options, null, TestContext.Current.CancellationToken);
            await inference.AssertHasAsync(held, names.Length, report.Buckets.Count);
            Assert.Equal(names, report.Devices.Select(device => device.Uuid));
            Assert.True(report.Buckets.Count > 1);
        }
    }
}
