using System.ComponentModel;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text.Json;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Tests.Inference;

/// <summary>A stand-in for an inference server, in Python: see python/inference_server.py.</summary>
internal sealed class InferenceServer : IAsyncDisposable
{
    private const string Python = "/usr/bin/python3";       // Debian's, which has Debian's pyzmq
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);

    private readonly Process _process;
    private readonly HttpClient _http;

    private InferenceServer(Process process, int port, string? socket)
    {
        _process = process;
        UnixSocket = socket;
        Endpoint = socket is null ? new Uri($"http://127.0.0.1:{port}") : new Uri("http://localhost");
        _http = new HttpClient(new SocketsHttpHandler
        {
            ConnectCallback = async (context, cancellationToken) =>
            {
                var connection = socket is null
                    ? new Socket(SocketType.Stream, ProtocolType.Tcp)
                    : new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await connection.ConnectAsync(socket is null ? context.DnsEndPoint : new UnixDomainSocketEndPoint(socket), cancellationToken);
                return new NetworkStream(connection, ownsSocket: true);
            },
        });
    }

    internal Uri Endpoint { get; }

    internal string? UnixSocket { get; }

    /// <summary>Starts one; the test is skipped where Python or a package is not there.</summary>
    internal static async Task<InferenceServer> StartAsync(params string[] arguments)
    {
        string folder = Path.Combine(AppContext.BaseDirectory, "Inference", "python");
        var start = new ProcessStartInfo(Python, [Path.Combine(folder, "inference_server.py"), "--binding", Repository.File("interop-headers/checkpoint_engine.py"), .. arguments])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        start.Environment["PYTHONDONTWRITEBYTECODE"] = "1";
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (Win32Exception absent)
        {
            Assert.Skip($"there is no {Python} ({absent.Message}); apt-get install python3 python3-zmq");
            throw;
        }
        string line = await process.StandardOutput.ReadLineAsync().WaitAsync(s_patience) ?? throw new InvalidOperationException("the stand-in ended before it listened");
        using JsonDocument said = JsonDocument.Parse(line);
        if (said.RootElement.TryGetProperty("missing", out JsonElement missing))
        {
            process.Dispose();
            Assert.Skip($"Python has no {missing.GetString()}; apt-get install python3-{missing.GetString()}");
        }
        int socket = Array.IndexOf(arguments, "--uds");
        return new InferenceServer(process, said.RootElement.GetProperty("port").GetInt32(), socket < 0 ? null : arguments[socket + 1]);
    }

    internal InferenceUpdateOptions Options(InferenceEngine engine = InferenceEngine.Vllm, int workers = 1) => new()
    {
        Endpoint = Endpoint,
        UnixSocket = UnixSocket,
        Engine = engine,
        InferenceParallelSize = workers,
        BucketBytes = 64 << 10,
        HealthTimeout = s_patience,
        StepTimeout = s_patience,
    };

    /// <summary>That every worker has each tensor as it is in the checkpoint.</summary>
    internal async Task AssertHasAsync(HeldCheckpoint held, int workers, int buckets)
    {
        using JsonDocument received = await GetAsync("/received");
        Assert.Equal(workers, received.RootElement.GetArrayLength());
        foreach (JsonElement worker in received.RootElement.EnumerateArray())
        {
            Assert.True(worker.GetProperty("ok").GetBoolean(), worker.ToString());
            Assert.Equal(buckets, worker.GetProperty("buckets").GetInt32());
            JsonElement tensors = worker.GetProperty("tensors");
            Assert.Equal(held.Tensors.Count, tensors.EnumerateObject().Count());
            for (int tensor = 0; tensor < held.Tensors.Count; tensor++)
            {
                JsonElement told = tensors.GetProperty(held.Tensors.GetName(tensor));
                Assert.Equal(held.Tensors.GetDtypeName(tensor), told[0].GetString());
                Assert.Equal(held.Tensors.GetShape(tensor).ToArray(), told[1].EnumerateArray().Select(dimension => dimension.GetInt64()));
                Assert.Equal(Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(held.GetTensorBytes(tensor))), told[2].GetString());
            }
        }
    }

    internal async Task<JsonDocument> GetAsync(string path) => JsonDocument.Parse(await _http.GetStringAsync(new Uri(Endpoint, path)).WaitAsync(s_patience));

    /// <summary>Ends it as a crash would.</summary>
    internal void Kill() => _process.Kill(entireProcessTree: true);

    public async ValueTask DisposeAsync()
    {
        _http.Dispose();
        if (!_process.HasExited)
        {
            Kill();
        }
        await _process.WaitForExitAsync().WaitAsync(s_patience);
        _process.Dispose();
    }

    private static class Repository
    {
        internal static string File(string path)
        {
            string? folder = AppContext.BaseDirectory;
            while (!System.IO.File.Exists(Path.Combine(folder!, "CheckpointEngine.slnx")))
            {
                folder = Path.GetDirectoryName(folder);
            }
            return Path.Combine(folder!, path);
        }
    }
}
