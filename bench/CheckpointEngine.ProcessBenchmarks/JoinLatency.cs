using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;
using CheckpointEngine.Http;
using CheckpointEngine.Metas;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// What a join costs whatever its size: fetch the metas over HTTP, connect, plan, read, check. A checkpoint of 4 KiB is read whole, so the figure
/// is an upper bound of the time to the first byte. In one process, code and caches warm, every connection new.
/// </summary>
internal static class JoinLatency
{
    private const int WarmUp = 200;
    private const int Joins = 201;

    internal static async Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string file = Path.Combine(bench.ScratchDirectory, "tiny.safetensors");
        WriteTinyCheckpoint(file);
        await using var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync();
        await holder.RegisterAsync("tiny", [file]);
        await using CheckpointEngineHost http = await CheckpointEngineHost.StartAsync(holder, new CheckpointEngineHostOptions { Listen = ["http://127.0.0.1:0"] });
        string url = http.Addresses[0] + "/v1/metas";

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        foreach ((JoinDestinationKind destination, bool verify) in new[] { (JoinDestinationKind.Memory, true), (JoinDestinationKind.Memory, false), (JoinDestinationKind.Null, false) })
        {
            var total = new List<double>();
            var fetch = new List<double>();
            for (int join = 0; join < WarmUp + Joins; join++)
            {
                long start = Stopwatch.GetTimestamp();
                using var client = new MetasClient();
                CheckpointMetas metas = await client.FetchAsync(url);
                double fetched = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
                await joiner.JoinAsync(metas, new JoinOptions { Transport = Transfer.TransportChoice.Tcp, CheckpointName = "tiny", Destination = destination, Verify = verify });
                double joined = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
                if (destination == JoinDestinationKind.Memory)
                {
                    await joiner.UnregisterAsync("tiny");
                }
                if (join >= WarmUp)
                {
                    total.Add(joined);
                    fetch.Add(fetched);
                }
            }
            scoreboard.Below($"join of 4 KiB into {destination.ToString().ToLowerInvariant()}, {(verify ? "verified" : "unverified")}", Statistics.Median(total), 10, "ms",
                $"median of {Joins}, {Statistics.Range(total, "0.0")}; fetch of the metas {Statistics.Median(fetch):0.00} ms of it");
        }
    }

    private static void WriteTinyCheckpoint(string file)
    {
        byte[] header = Encoding.UTF8.GetBytes("""{"model.norm.weight":{"dtype":"BF16","shape":[2048],"data_offsets":[0,4096]}}""".PadRight(120));
        byte[] bytes = new byte[8 + header.Length + 4096];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, header.Length);
        header.CopyTo(bytes, 8);
        File.WriteAllBytes(file, bytes);
    }
}
