using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests.Inference;

/// <summary>Joins whose tensors go into an inference server as they come.</summary>
public sealed class JoinAndUpdateTests : IAsyncLifetime
{
    private readonly SmallCheckpoint _files = new(
        [("embed", TensorDtype.BF16, [100, 300]), ("empty", TensorDtype.F32, [0, 5]), ("scalar", TensorDtype.F32, []), ("large", TensorDtype.U8, [(9 << 20) + 1])],
        [.. Enumerable.Range(0, 60).Select(i => ($"layers.{i}.w", TensorDtype.F16, new long[] { 16 + i, 65 }))]);

    private ParameterServer _holder = null!;

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _holder = new ParameterServer(new ParameterServerOptions());
        await _holder.StartAsync(Stop);
        await _holder.RegisterAsync("m", [_files.Path], Stop);
    }

    public async ValueTask DisposeAsync()
    {
        await _holder.DisposeAsync();
        _files.Dispose();
    }

    [Theory]
    [InlineData(TransportChoice.Tcp, HoldMode.Map)]         // as they come
    [InlineData(TransportChoice.Auto, HoldMode.Map)]        // attached: when all of it was checked
    [InlineData(TransportChoice.Tcp, HoldMode.Memfd)]
    public async Task JoinAndUpdate_AnyTransport_ServerAndJoinerHaveEveryTensor(TransportChoice transport, HoldMode hold)
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--workers", "2");
        await using var joiner = new ParameterServer(new ParameterServerOptions { Hold = hold });
        var join = new JoinOptions { CheckpointName = "j", Transport = transport, RequireVerify = true };
        (JoinReport joined, InferenceUpdateReport update) = await joiner.JoinAndUpdateAsync(_holder.GetMetas("m").Metas, join, inference.Options(workers: 2), cancellationToken: Stop);
        Assert.True(joined.Verified);
        HeldCheckpoint held = joiner.FindCheckpoint("j")!;
        SmallCheckpoint.AssertEqual(_files.Tensors, held);
        await inference.AssertHasAsync(held, 2, update.Buckets.Count);
    }

    [Fact]
    public async Task JoinAndUpdate_OwnerThatHoldsTheRestBack_WorkerHasTheFirstBucketBeforeTheJoinEnds()
    {
        await using InferenceServer inference = await InferenceServer.StartAsync();
        var rest = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, request => request == 0 ? Task.CompletedTask : rest.Task.WaitAsync(token), token));
        await using var owner = made = new FakeOwner([4 << 20, 4 << 20, 12345], dataPort: port.EndPoint, digest: root => root);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var join = new JoinOptions { CheckpointName = "j", Transport = TransportChoice.Tcp, Lanes = 1, RequireVerify = true };
        Task<(JoinReport Join, InferenceUpdateReport Update)> both = joiner.JoinAndUpdateAsync(owner.Metas, join, inference.Options(), cancellationToken: Stop);
        Task loaded = inference.GetAsync("/loaded");
        await await Task.WhenAny(loaded, both);
        Assert.False(both.IsCompleted);
        Assert.Empty(joiner.CheckpointNames);

        rest.SetResult();
        (JoinReport joined, InferenceUpdateReport update) = await both;
        Assert.True(joined.Verified);
        HeldCheckpoint held = joiner.FindCheckpoint("j")!;
        SmallCheckpoint.AssertEqual(owner.Tensors, held);
        await inference.AssertHasAsync(held, 1, update.Buckets.Count);
    }

    // Nothing is asked of the worker at that time: its going is seen all the same, and not when the rest has come.
    [Fact]
    public async Task JoinAndUpdate_WorkerGoesWhileTheRestIsWaitedFor_FailsAtOnce()
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--fault", "leave:1:0.5");
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, request => request == 0 ? Task.CompletedTask : Task.Delay(Timeout.Infinite, token), token));
        await using var owner = made = new FakeOwner([4 << 20, 4 << 20, 12345], dataPort: port.EndPoint, digest: root => root);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var join = new JoinOptions { CheckpointName = "j", Transport = TransportChoice.Tcp, Lanes = 1, RequireVerify = true, StallTimeout = TimeSpan.FromDays(1) };
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(
            () => joiner.JoinAndUpdateAsync(owner.Metas, join, inference.Options(), cancellationToken: Stop).WaitAsync(TimeSpan.FromSeconds(60), Stop));
        Assert.Equal(CheckpointError.Unreachable, failure.Error);
        Assert.Contains("wait for the tensors of bucket 2", failure.Message, StringComparison.Ordinal);
        Assert.Contains("worker died with exit status 9", failure.Message, StringComparison.Ordinal);
        Assert.Empty(joiner.CheckpointNames);
    }

    [Fact]
    public async Task JoinAndUpdate_DevicesThatAreNotThere_FailsBeforeAByteComes()
    {
        if (CudaDevices.IsSupported(out _))
        {
            Assert.Skip("this host has a GPU");
        }
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var join = new JoinOptions { CheckpointName = "j", Transport = TransportChoice.Tcp, RequireVerify = true };
        var update = new InferenceUpdateOptions { Devices = UpdateDeviceKind.Cuda };
        var states = new List<JoinProgress>();
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(
            () => joiner.JoinAndUpdateAsync(_holder.GetMetas("m").Metas, join, update, new Told(states), cancellationToken: Stop));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
        Assert.All(states, state => Assert.Equal(0, state.BytesDone));
        Assert.Empty(joiner.CheckpointNames);
    }

    [Fact]
    public async Task JoinAndUpdate_WorkerFails_NothingIsHeld()
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--fault", "error:2");
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var join = new JoinOptions { CheckpointName = "j", Transport = TransportChoice.Tcp, RequireVerify = true };
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(
            () => joiner.JoinAndUpdateAsync(_holder.GetMetas("m").Metas, join, inference.Options(), cancellationToken: Stop));
        Assert.Contains("no such parameter in bucket 2", failure.Message, StringComparison.Ordinal);
        Assert.Empty(joiner.CheckpointNames);
    }

    [Fact]
    public async Task JoinAndUpdate_OwnerWithoutDigests_ServerIsHandedNothing()
    {
        await using var holder = new ParameterServer(new ParameterServerOptions { Digest = DigestAlgorithm.None });
        await holder.StartAsync(Stop);
        await holder.RegisterAsync("m", [_files.Path], Stop);
        await using InferenceServer inference = await InferenceServer.StartAsync();
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var join = new JoinOptions { CheckpointName = "j", Transport = TransportChoice.Tcp, RequireVerify = true };
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(
            () => joiner.JoinAndUpdateAsync(holder.GetMetas("m").Metas, join, inference.Options(), cancellationToken: Stop));
        Assert.Equal(CheckpointError.DigestMismatch, failure.Error);
        using (System.Text.Json.JsonDocument requests = await inference.GetAsync("/requests"))
        {
            Assert.Equal(0, requests.RootElement.GetArrayLength());
        }

        join.RequireVerify = join.Verify = false;
        (JoinReport joined, InferenceUpdateReport update) = await joiner.JoinAndUpdateAsync(holder.GetMetas("m").Metas, join, inference.Options(), cancellationToken: Stop);
        Assert.False(joined.Verified);
        await inference.AssertHasAsync(joiner.FindCheckpoint("j")!, 1, update.Buckets.Count);
    }

    [Fact]
    public async Task JoinAndUpdate_JoinFailsWhileServerStarts_IsNotWaitedFor()
    {
        await using var holder = new ParameterServer(new ParameterServerOptions { Digest = DigestAlgorithm.None });
        await holder.StartAsync(Stop);
        await holder.RegisterAsync("m", [_files.Path], Stop);
        await using InferenceServer inference = await InferenceServer.StartAsync("--unhealthy", "1000000");
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        InferenceUpdateOptions update = inference.Options();
        update.HealthTimeout = TimeSpan.FromDays(1);
        var join = new JoinOptions { CheckpointName = "j", Transport = TransportChoice.Tcp, RequireVerify = true };
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(
            () => joiner.JoinAndUpdateAsync(holder.GetMetas("m").Metas, join, update, cancellationToken: Stop).WaitAsync(TimeSpan.FromSeconds(60), Stop));
        Assert.Equal(CheckpointError.DigestMismatch, failure.Error);
        Assert.Empty(joiner.CheckpointNames);
    }

    [Fact]
    public async Task JoinAndUpdate_UnverifiedWithoutSayingSo_IsRefused()
    {
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await Assert.ThrowsAsync<ArgumentException>(() => joiner.JoinAndUpdateAsync(_holder.GetMetas("m").Metas, new JoinOptions(), new InferenceUpdateOptions(), cancellationToken: Stop));
    }

    private sealed class Told(List<JoinProgress> states) : IProgress<JoinProgress>
    {
        public void Report(JoinProgress value) => states.Add(value);
    }
}
