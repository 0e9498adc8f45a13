using System.Text.Json;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Tests.Inference;

/// <summary>Updates of stand-ins for inference servers: every way in, every generation of workers, and what goes wrong.</summary>
public sealed class UpdateTests : IAsyncLifetime
{
    private readonly SmallCheckpoint _files = new(
        [("embed", TensorDtype.BF16, [100, 300]), ("empty", TensorDtype.F32, [0, 5]), ("scalar", TensorDtype.F32, []), ("größe", TensorDtype.U8, [3, 5]), ("four", TensorDtype.I64, [2, 3, 4, 5])],
        [.. Enumerable.Range(0, 60).Select(i => ($"layers.{i}.w", TensorDtype.F16, new long[] { 16 + i, 65 }))]);

    private readonly ParameterServer _server = new(new ParameterServerOptions());
    private HeldCheckpoint _held = null!;

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync() => _held = await _server.RegisterAsync("m", [_files.Path], Stop);

    public async ValueTask DisposeAsync()
    {
        await _server.DisposeAsync();
        _files.Dispose();
    }

    [Theory]
    [InlineData("vllm", "0.4", WorkerProtocol.V04, 1)]
    [InlineData("vllm", "0.4", WorkerProtocol.V04, 2)]
    [InlineData("vllm", "0.4", WorkerProtocol.V04, 8)]
    [InlineData("vllm", "0.2", WorkerProtocol.V02, 2)]
    [InlineData("vllm", "0.1", WorkerProtocol.V01, 2)]
    [InlineData("vllm", "own", WorkerProtocol.V04, 2)]
    [InlineData("sglang", "0.4", WorkerProtocol.V04, 2)]
    [InlineData("sglang", "0.2", WorkerProtocol.V02, 1)]
    [InlineData("lmdeploy", "0.4", WorkerProtocol.V04, 2)]
    public async Task Update_EveryServerAndWorker_HasEveryTensor(string kind, string generation, WorkerProtocol protocol, int workers)
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--kind", kind, "--generation", generation, "--workers", $"{workers}");
        InferenceUpdateOptions options = inference.Options(kind switch { "vllm" => InferenceEngine.Vllm, "sglang" => InferenceEngine.Sglang, _ => InferenceEngine.Lmdeploy }, workers);
        options.WorkerProtocol = protocol;
        options.ApiKey = kind == "lmdeploy" ? "sesame" : null;
        var phases = new List<string>();

        InferenceUpdateReport report = await _server.UpdateAsync("m", options, new Progress(phases), Stop);

        Assert.True(report.Buckets.Count > 2, $"{report.Buckets.Count} buckets");
        await inference.AssertHasAsync(_held, workers, report.Buckets.Count);
        Assert.Equal((_held.DataBytes, _held.Tensors.Count, workers), (report.Bytes, report.Tensors, report.Devices.Count));
        Assert.Equal(_held.DataBytes, report.Buckets.Sum(bucket => bucket.Bytes));
        Assert.Empty(report.Notes);
        Assert.Equal(["health", "connect", "load", "finish"], phases.Distinct());
    }

    [Fact]
    public async Task Update_TorchItself_HasEveryTensor()
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--torch");
        InferenceUpdateReport report = await _server.UpdateAsync("m", inference.Options(), null, Stop);
        await inference.AssertHasAsync(_held, 1, report.Buckets.Count);
    }

    [Theory]
    [InlineData("0.2", WorkerProtocol.V04, "older than 0.4")]
    [InlineData("0.1", WorkerProtocol.V04, "older than 0.4")]
    [InlineData("0.4", WorkerProtocol.V02, "0.4 or later")]
    public async Task Update_OtherGenerationThanSaid_EndsWellWithANote(string generation, WorkerProtocol protocol, string note)
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--generation", generation, "--workers", "2");
        InferenceUpdateOptions options = inference.Options(workers: 2);
        options.WorkerProtocol = protocol;
        InferenceUpdateReport report = await _server.UpdateAsync("m", options, null, Stop);
        await inference.AssertHasAsync(_held, 2, report.Buckets.Count);
        Assert.Contains(note, Assert.Single(report.Notes), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("0.4", "error:3", CheckpointError.Refused, "no such parameter in bucket 3")]
    [InlineData("0.2", "error:3", CheckpointError.Refused, "no such parameter in bucket 3")]
    [InlineData("own", "error:3", CheckpointError.Refused, "no such parameter in bucket 3")]
    [InlineData("0.1", "error:3", CheckpointError.Unreachable, "no such parameter in bucket 3")]
    [InlineData("0.4", "error:handle", CheckpointError.Refused, "no such parameter in bucket handle")]
    [InlineData("0.4", "error:hook", CheckpointError.Refused, "no such parameter in bucket hook")]
    [InlineData("0.2", "error:hook", CheckpointError.Refused, "no such parameter in bucket hook")]
    [InlineData("own", "error:hook", CheckpointError.Refused, "no such parameter in bucket hook")]
    [InlineData("0.4", "die:2", CheckpointError.Unreachable, "worker died with exit status 9")]
    [InlineData("0.4", "die:handle", CheckpointError.Unreachable, "worker died with exit status 9")]
    [InlineData("0.4", "late:2:3", CheckpointError.Timeout, "has not answered")]
    public async Task Update_OneWorkerGoesWrong_SaysWhyAndTheNextUpdateIsGood(string generation, string fault, CheckpointError error, string text)
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--generation", generation, "--workers", "2", "--fault", fault, "--fault-worker", "1", "--fault-once");
        InferenceUpdateOptions options = inference.Options(workers: 2);
        options.WorkerProtocol = generation switch { "0.1" => WorkerProtocol.V01, "0.2" => WorkerProtocol.V02, _ => WorkerProtocol.V04 };
        options.StepTimeout = fault.StartsWith("late", StringComparison.Ordinal) ? TimeSpan.FromSeconds(1) : options.StepTimeout;

        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => _server.UpdateAsync("m", options, null, Stop));

        Assert.Contains(text, failure.Message, StringComparison.Ordinal);
        Assert.Equal(error, failure.Error);
        options.StepTimeout = TimeSpan.FromSeconds(60);
        InferenceUpdateReport report = await _server.UpdateAsync("m", options, null, Stop);
        await inference.AssertHasAsync(_held, 2, report.Buckets.Count);
    }

    [Fact]
    public async Task Update_LateWorkerWithinItsTime_IsWaitedFor()
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--workers", "2", "--fault", "late:2:1.5");
        InferenceUpdateReport report = await _server.UpdateAsync("m", inference.Options(workers: 2), null, Stop);
        await inference.AssertHasAsync(_held, 2, report.Buckets.Count);
        Assert.True(report.Buckets[1].LoadSeconds >= 1.5, $"{report.Buckets[1].LoadSeconds} s");
        Assert.True(report.Devices[0].LoadSeconds >= 1.5 && report.Devices[1].LoadSeconds < 1.5, string.Join(", ", report.Devices));
    }

    [Fact]
    public async Task Update_Cancelled_EndsSoonAndTheNextUpdateIsGood()
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--workers", "2", "--fault", "late:2:2", "--fault-once");
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(Stop);
        InferenceUpdateOptions options = inference.Options(workers: 2);
        var progress = new Progress([], state =>
        {
            if (state is { Phase: "load", BytesDone: > 0 })
            {
                cancel.Cancel();
            }
        });
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => _server.UpdateAsync("m", options, progress, cancel.Token));
        InferenceUpdateReport report = await _server.UpdateAsync("m", options, null, Stop);
        await inference.AssertHasAsync(_held, 2, report.Buckets.Count);
    }

    [Theory]
    [InlineData("0.4")]
    [InlineData("0.1")]
    [InlineData("own")]
    public async Task Update_CancelledBeforeWorkersConnect_TheNextUpdateIsGood(string generation)
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--workers", "2", "--generation", generation, "--fault", "slow:0.7", "--fault-once");
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(Stop);
        InferenceUpdateOptions options = inference.Options(workers: 2);
        options.WorkerProtocol = generation == "0.1" ? WorkerProtocol.V01 : WorkerProtocol.V04;
        var progress = new Progress([], state =>
        {
            if (state.Phase == "connect")
            {
                cancel.CancelAfter(TimeSpan.FromMilliseconds(200));     // the request is out, and the server waits before it tells its workers
            }
        });
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => _server.UpdateAsync("m", options, progress, cancel.Token));
        InferenceUpdateReport report = await _server.UpdateAsync("m", options, null, Stop);
        await inference.AssertHasAsync(_held, 2, report.Buckets.Count);
    }

    [Fact]
    public async Task Update_WrongParallelSize_IsToldInTheServersWords()
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--workers", "2");
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => _server.UpdateAsync("m", inference.Options(), null, Stop));
        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.Contains("are not ['HOST-0', 'HOST-1']", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Update_WrongEngineOrKey_IsToldWithWhatToDo()
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--kind", "lmdeploy");
        CheckpointEngineException key = await Assert.ThrowsAsync<CheckpointEngineException>(() => _server.UpdateAsync("m", inference.Options(InferenceEngine.Lmdeploy), null, Stop));
        Assert.Equal(CheckpointError.Refused, key.Error);
        Assert.Contains("HTTP 401", key.Message, StringComparison.Ordinal);
        Assert.Contains("api-key", key.Message, StringComparison.Ordinal);
        await using InferenceServer sglang = await InferenceServer.StartAsync("--kind", "sglang");
        CheckpointEngineException engine = await Assert.ThrowsAsync<CheckpointEngineException>(() => _server.UpdateAsync("m", sglang.Options(InferenceEngine.Vllm), null, Stop));
        Assert.Contains("HTTP 404", engine.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Update_ServerOnAUnixSocketThatIsNotHealthyYet_IsWaitedFor()
    {
        using var folder = new TempDirectory();
        string socket = Path.Combine(folder.Path, "inference.sock");
        await using InferenceServer inference = await InferenceServer.StartAsync("--uds", socket, "--unhealthy", "3");
        var notes = new List<string?>();
        InferenceUpdateReport report = await _server.UpdateAsync("m", inference.Options(), new Progress([], state => notes.Add(state.Note)), Stop);
        await inference.AssertHasAsync(_held, 1, report.Buckets.Count);
        Assert.Contains("GET /health: HTTP 503", notes);
        Assert.True(report.HealthSeconds > 0.1);
    }

    [Fact]
    public async Task Update_NoServer_TimesOutWithWhatItHeard()
    {
        var options = new InferenceUpdateOptions { Endpoint = new Uri("http://127.0.0.1:1"), HealthTimeout = TimeSpan.FromMilliseconds(300) };
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => _server.UpdateAsync("m", options, null, Stop));
        Assert.Equal(CheckpointError.Timeout, failure.Error);
        Assert.Contains("refused", failure.Message, StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public async Task Update_UnknownCheckpointOrDevice_IsRefused()
    {
        Assert.Equal(CheckpointError.NotFound, (await Assert.ThrowsAsync<CheckpointEngineException>(() => _server.UpdateAsync("other", new InferenceUpdateOptions(), null, Stop))).Error);
        var options = new InferenceUpdateOptions { Devices = UpdateDeviceKind.Cuda };
        Assert.Equal(CheckpointError.NotSupported, (await Assert.ThrowsAsync<CheckpointEngineException>(() => _server.UpdateAsync("m", options, null, Stop))).Error);
    }

    [Fact]
    public async Task Update_RequestBodies_AreUpstreams()
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--kind", "sglang");
        InferenceUpdateOptions options = inference.Options(InferenceEngine.Sglang);
        options.WeightVersion = "7";
        options.FlushCache = false;
        await _server.UpdateAsync("m", options, null, Stop);
        using JsonDocument requests = await inference.GetAsync("/requests");
        JsonElement body = requests.RootElement[0].GetProperty("body");
        Assert.Equal(["zmq_handles", "flush_cache", "weight_version", "torch_empty_cache"], body.EnumerateObject().Select(member => member.Name));
        Assert.Equal(("7", false), (body.GetProperty("weight_version").GetString(), body.GetProperty("flush_cache").GetBoolean()));
        Assert.Matches(@"^ipc://@checkpoint-engine-HOST-0-[0-9]+\.sock$", body.GetProperty("zmq_handles").GetProperty("HOST-0").GetString());

        await using InferenceServer vllm = await InferenceServer.StartAsync();
        await _server.UpdateAsync("m", vllm.Options(), null, Stop);
        using JsonDocument asked = await vllm.GetAsync("/requests");
        Assert.Equal(["method", "args", "timeout"], asked.RootElement[0].GetProperty("body").EnumerateObject().Select(member => member.Name));
        Assert.Equal(300, asked.RootElement[0].GetProperty("body").GetProperty("timeout").GetDouble());
    }

    [Theory]
    [InlineData("vllm", InferenceEngine.VllmFiles)]
    [InlineData("sglang", InferenceEngine.SglangFiles)]
    public async Task UpdateByFiles_ServerReadsThem_AndTheyAreGone(string kind, InferenceEngine engine)
    {
        using var folder = new TempDirectory();
        string path = Path.Combine(folder.Path, "weights");
        await using InferenceServer inference = await InferenceServer.StartAsync("--kind", kind);
        InferenceUpdateOptions options = inference.Options(engine);
        options.DirectoryPath = path;
        InferenceUpdateReport report = await _server.UpdateAsync("m", options, null, Stop);
        await inference.AssertHasAsync(_held, 1, 0);
        using (JsonDocument received = await inference.GetAsync("/received"))
        {
            Assert.Contains("config.json", received.RootElement[0].GetProperty("files").EnumerateArray().Select(file => file.GetString()));
        }
        Assert.False(Directory.Exists(path));
        Assert.Equal((_held.DataBytes, 0), (report.Bytes, report.Buckets.Count));

        options.KeepFiles = true;
        Assert.Contains(path, Assert.Single((await _server.UpdateAsync("m", options, null, Stop)).Notes), StringComparison.Ordinal);
        Assert.True(File.Exists(Path.Combine(path, "model.safetensors.index.json")));
        Assert.Equal(CheckpointError.AlreadyExists, (await Assert.ThrowsAsync<CheckpointEngineException>(() => _server.UpdateAsync("m", options, null, Stop))).Error);
        Assert.True(File.Exists(Path.Combine(path, "model.safetensors.index.json")), "what was there stays");
    }

    [Fact]
    public async Task UpdateByFiles_ServerRefuses_FilesAreGone()
    {
        using var folder = new TempDirectory();
        await using InferenceServer inference = await InferenceServer.StartAsync("--fault", "refuse");
        InferenceUpdateOptions options = inference.Options(InferenceEngine.VllmFiles);
        options.DirectoryPath = folder.Path;
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => _server.UpdateAsync("m", options, null, Stop));
        Assert.Contains("no such model", failure.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(folder.Path));
    }

    [Fact]
    public async Task Update_ServerRestartedBetween_TakesTheNext()
    {
        InferenceServer first = await InferenceServer.StartAsync();
        await _server.UpdateAsync("m", first.Options(), null, Stop);
        first.Kill();
        await first.DisposeAsync();
        await using InferenceServer second = await InferenceServer.StartAsync();
        InferenceUpdateReport report = await _server.UpdateAsync("m", second.Options(), null, Stop);
        await second.AssertHasAsync(_held, 1, report.Buckets.Count);
    }

    [Fact]
    public async Task Update_Unregistered_IsWaitedFor()
    {
        await using InferenceServer inference = await InferenceServer.StartAsync("--fault", "late:2:1");
        var loading = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Task<InferenceUpdateReport> update = _server.UpdateAsync("m", inference.Options(), new Progress([], state =>
        {
            if (state is { Phase: "load", BytesDone: > 0 })
            {
                loading.TrySetResult();
            }
        }), Stop);
        await loading.Task.WaitAsync(TimeSpan.FromSeconds(60), Stop);
        Task<bool> unregistered = _server.UnregisterAsync("m", Stop);
        Assert.False(unregistered.IsCompleted);
        InferenceUpdateReport report = await update;
        Assert.Equal(_held.Tensors.Count, report.Tensors);
        Assert.True(await unregistered);
    }

    private sealed class Progress(List<string> phases, Action<InferenceUpdateProgress>? seen = null) : IProgress<InferenceUpdateProgress>
    {
        public void Report(InferenceUpdateProgress value)
        {
            phases.Add(value.Phase);
            seen?.Invoke(value);
        }
    }
}
