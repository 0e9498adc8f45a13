using System.Diagnostics;
using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>The command and a stand-in for an inference server.</summary>
public sealed class UpdateTests
{
    [Theory]
    [InlineData("vllm", "vllm")]
    [InlineData("sglang", "sglang-files")]
    public async Task Update_OfADirectory_ServerHasEveryTensor(string kind, string engine)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        using InferenceServer server = await InferenceServer.StartAsync("--kind", kind, "--workers", "2");

        Outcome outcome = (await Engine.RunAsync("update", "--checkpoint-path", temp["model"], "--endpoint", server.Endpoint, "--engine", engine, "--inference-parallel-size", "2",
            "--update-method", "broadcast", "--save-metas-file", temp["metas.json"], "--bucket-mib", "1", "--json")).Succeeded();

        using JsonDocument report = JsonDocument.Parse(outcome.Output);
        JsonElement root = report.RootElement;
        Assert.Equal("my-checkpoint-iter-0", root.GetProperty("checkpoint").GetString());
        Assert.Equal(engine == "vllm", root.GetProperty("buckets").GetArrayLength() > 0);
        Assert.Contains("--update-method is ignored", outcome.Errors, StringComparison.Ordinal);
        Assert.True(File.Exists(temp["metas.json"]));
        JsonElement received = await server.ReceivedAsync();
        Assert.All(received.EnumerateArray(), worker => Assert.Equal(root.GetProperty("tensors").GetInt32(), worker.GetProperty("tensors").EnumerateObject().Count()));
    }

    [Fact]
    public async Task Join_WithEndpoint_HandsOnWhatWasVerified()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        using InferenceServer server = await InferenceServer.StartAsync("--workers", "2", "--generation", "own");

        Outcome outcome = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--endpoint", server.Endpoint, "--inference-parallel-size", "2", "--transport", "tcp", "--json")).Succeeded();

        using JsonDocument report = JsonDocument.Parse(outcome.Output);
        Assert.True(report.RootElement.GetProperty("verified").GetBoolean());
        Assert.Equal(2, report.RootElement.GetProperty("update").GetProperty("devices").GetArrayLength());
        Outcome plain = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--endpoint", server.Endpoint, "--inference-parallel-size", "2")).Succeeded();
        Assert.Contains("updated from 'join-checkpoint'", plain.Output, StringComparison.Ordinal);
        JsonElement received = await server.ReceivedAsync();
        Assert.All(received.EnumerateArray(), worker => Assert.Equal(report.RootElement.GetProperty("tensors").GetInt32(), worker.GetProperty("tensors").EnumerateObject().Count()));
    }

    [Fact]
    public async Task Update_WorkerFails_IsExit1WithItsWords()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        using InferenceServer server = await InferenceServer.StartAsync("--fault", "error:1");
        string line = (await Engine.RunAsync("update", "--checkpoint-path", temp["model"], "--endpoint", server.Endpoint, "--inference-parallel-size", "1")).FailedWithOneLine();
        Assert.Contains("no such parameter in bucket 1", line, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Update_ByFilesBeyondTheSizeOfFiles_NamesTheLimitAndLeavesNothing()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], 4 << 20);
        Directory.CreateDirectory(temp["files"]);
        using InferenceServer server = await InferenceServer.StartAsync("--kind", "sglang");
        // In blocks of 512 bytes or of 1,024: sh's choice.
        await using Engine update = Engine.StartAs(ProcessLimit.Within("ulimit -f 2048"),
            "update", "--checkpoint-path", temp["model"], "--endpoint", server.Endpoint, "--engine", "sglang-files", "--inference-parallel-size", "1", "--files-dir", temp["files"]);
        Assert.Contains("'ulimit -f unlimited'", (await update.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(temp["files"]));
    }

    private sealed class InferenceServer : IDisposable
    {
        private readonly Process _process;
        private readonly HttpClient _http = new();

        private InferenceServer(Process process, int port)
        {
            _process = process;
            Endpoint = $"http://127.0.0.1:{port}";
        }

        public string Endpoint { get; }

        public static async Task<InferenceServer> StartAsync(params string[] arguments)
        {
            const string Python = "/usr/bin/python3";
            if (!File.Exists(Python))
            {
                Assert.Skip($"there is no {Python}; apt-get install python3 python3-zmq");
            }
            string root = AppContext.BaseDirectory;
            while (!File.Exists(Path.Combine(root, "CheckpointEngine.slnx")))
            {
                root = Path.GetDirectoryName(root)!;
            }
            var start = new ProcessStartInfo(Python,
                [Path.Combine(root, "tests/CheckpointEngine.Core.Tests/Inference/python/inference_server.py"), "--binding", Path.Combine(root, "interop-headers/checkpoint_engine.py"), .. arguments])
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
            };
            start.Environment["PYTHONDONTWRITEBYTECODE"] = "1";
            Process process = Process.Start(start)!;
            string line = await process.StandardOutput.ReadLineAsync().WaitAsync(Engine.Patience) ?? "{}";
            using JsonDocument said = JsonDocument.Parse(line);
            if (said.RootElement.TryGetProperty("missing", out JsonElement missing))
            {
                Assert.Skip($"Python has no {missing.GetString()}; apt-get install python3-{missing.GetString()}");
            }
            return new InferenceServer(process, said.RootElement.GetProperty("port").GetInt32());
        }

        public async Task<JsonElement> ReceivedAsync()
        {
            using JsonDocument received = JsonDocument.Parse(await _http.GetStringAsync(new Uri(Endpoint + "/received")));
            return received.RootElement.Clone();
        }

        public void Dispose()
        {
            _http.Dispose();
            _process.Kill(entireProcessTree: true);
            _process.WaitForExit();
            _process.Dispose();
        }
    }
}
