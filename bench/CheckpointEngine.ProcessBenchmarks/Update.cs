using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// A join over TCP that goes on into an inference server with one worker in host memory, beside its two stages: the join alone, and an update alone of a
/// checkpoint that is held already. The three take turns within a pass; a ratio is the median of the passes' own.
/// </summary>
internal static partial class Update
{
    private const double LeastOfSlowerStage = 0.9;
    private const double MostMillisecondsBetweenBuckets = 0.5;
    private const string Python = "/usr/bin/python3";           // Debian's, which has Debian's pyzmq
    private static readonly TimeSpan s_timeToStart = TimeSpan.FromMinutes(1);

    internal static Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string checkpoint = bench.GetCheckpoint();
        using var server = new Server(bench);
        using var holder = new HolderProcess(bench, checkpoint, "--hold", "map");
        string[] join = ["join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--require-verify", "--json"];
        string[] endpoint = ["--endpoint", server.Endpoint, "--inference-parallel-size", "1"];
        string[] update = ["update", "--checkpoint-path", checkpoint, "--hold", "anon", "--digest", "none", .. endpoint, "--json"];

        Run(bench, join);        // then the holder knows all digests, and the worker has its memory
        Run(bench, update);
        var seconds = new Dictionary<string, List<double>> { ["join"] = [], ["update"] = [], ["pipeline"] = [] };
        var busy = new List<double>();
        var between = new List<double>();
        for (int pass = 0; pass < bench.Options.Passes; pass++)
        {
            Action[] steps =
            [
                () => seconds["join"].Add(Run(bench, join).GetProperty("seconds").GetDouble()),
                () =>
                {
                    JsonElement report = Run(bench, update);
                    seconds["update"].Add(report.GetProperty("seconds").GetDouble());
                    between.AddRange(server.MillisecondsBetweenBuckets(report));
                },
                () =>
                {
                    double before = ProcessorSeconds(holder, server);
                    double total = Run(bench, [.. join, .. endpoint]).GetProperty("total_seconds").GetDouble();
                    seconds["pipeline"].Add(total);
                    busy.Add((ProcessorSeconds(holder, server) - before) / Environment.ProcessorCount / total);
                },
            ];
            // Every other pass backwards, so that nothing always comes behind the same thing.
            foreach (Action step in pass % 2 == 0 ? steps : steps.Reverse())
            {
                step();
            }
            Console.WriteLine($"pass {pass + 1}: {string.Join("  ", seconds.Select(one => $"{one.Key} {one.Value[pass]:0.000} s"))}, which kept {busy[pass] * Environment.ProcessorCount:0.00} cores busy");
        }

        foreach ((string name, List<double> all) in seconds)
        {
            scoreboard.Note(name, $"{Statistics.Median(all):0.000} s", $"median of {all.Count}, {Statistics.Range(all, "0.000")}");
        }
        double[] ratios = [.. seconds["join"].Zip(seconds["update"], Math.Max).Zip(seconds["pipeline"], static (slower, pipeline) => slower / pipeline)];
        scoreboard.Note("slower stage / pipeline", $"{Statistics.Median(ratios):0.00}", Statistics.Range(ratios, "0.00"));
        scoreboard.Note("cores that the pipeline kept busy / all", $"{Statistics.Median(busy):0.00}", $"{Environment.ProcessorCount} cores, {Statistics.Range(busy, "0.00")}");
        scoreboard.AtLeast("the larger of both", Statistics.Median(ratios.Zip(busy, Math.Max)), LeastOfSlowerStage, "the slower stage or the cores are the limit");
        scoreboard.Below("between two buckets, beyond copy and load", Statistics.Median(between), MostMillisecondsBetweenBuckets, "ms", $"median of {between.Count}");
        return Task.CompletedTask;
    }

    private static JsonElement Run(Workbench bench, string[] arguments)
    {
        using JsonDocument report = JsonDocument.Parse(Workbench.Run(bench.Command, arguments));
        return report.RootElement.Clone();
    }

    // Of the holder, of the server and of all commands that have ended.
    private static unsafe double ProcessorSeconds(HolderProcess holder, Server server)
    {
        const int Children = -1;
        long* usage = stackalloc long[18];      // struct rusage begins with the times of user and system, seconds and microseconds. Source: getrusage(2)
        if (getrusage(Children, usage) != 0)
        {
            throw new BenchmarkFailedException($"getrusage: errno {Marshal.GetLastPInvokeError()}");
        }
        return usage[0] + usage[2] + (usage[1] + usage[3]) / 1e6 + Of(holder.Id) + Of(server.Id);

        static double Of(int id)
        {
            using var process = Process.GetProcessById(id);
            return process.TotalProcessorTime.TotalSeconds;
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static unsafe partial int getrusage(int who, long* usage);

    /// <summary>Stands for an inference server: bench/update/worker.py.</summary>
    private sealed class Server : IDisposable
    {
        private readonly ChildProcess _process;
        private readonly HttpClient _http = new();

        internal Server(Workbench bench)
        {
            _process = ChildProcess.Start(Python,
                [Path.Combine(bench.Root, "bench", "update", "worker.py"), "--binding", Path.Combine(bench.Root, "interop-headers", "checkpoint_engine.py")], Workbench.LongestServer,
                new Dictionary<string, string> { ["PYTHONDONTWRITEBYTECODE"] = "1" });
            using JsonDocument ready = JsonDocument.Parse(_process.WaitForLine("{", s_timeToStart));
            if (ready.RootElement.TryGetProperty("missing", out JsonElement missing))
            {
                _process.Dispose();
                throw new BenchmarkFailedException($"{Python} lacks {missing.GetString()}: apt-get install {missing.GetString()}");
            }
            Endpoint = $"http://127.0.0.1:{ready.RootElement.GetProperty("port").GetInt32()}";
        }

        internal string Endpoint { get; }

        internal int Id => _process.Id;

        /// <summary>What passed in the worker between the buckets of the last update, but for what a copy took longer than the loading beside it.</summary>
        internal IEnumerable<double> MillisecondsBetweenBuckets(JsonElement report)
        {
            using JsonDocument told = JsonDocument.Parse(_http.GetStringAsync(new Uri(Endpoint + "/times")).GetAwaiter().GetResult());
            double[][] times = [.. told.RootElement.GetProperty("times").EnumerateArray().Select(bucket => bucket.EnumerateArray().Select(time => time.GetDouble()).ToArray())];
            double[] copies = [.. report.GetProperty("buckets").EnumerateArray().Select(bucket => bucket.GetProperty("copy").GetDouble())];
            for (int bucket = 1; bucket < times.Length; bucket++)
            {
                double copyAlone = Math.Max(0, copies[bucket] - (times[bucket - 1][1] - times[bucket - 1][0]));
                yield return Math.Max(0, times[bucket][0] - times[bucket - 1][1] - copyAlone) * 1e3;
            }
        }

        public void Dispose()
        {
            _http.Dispose();
            _process.Dispose();
        }
    }
}
