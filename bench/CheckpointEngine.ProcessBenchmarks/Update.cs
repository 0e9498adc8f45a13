using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// A join over TCP that goes on into an inference server with one worker in host memory, beside its two stages: the join alone, and an update alone of a
/// checkpoint that is held already. The three take turns within a pass; a ratio is the median of the passes' own. Over the loopback, where both stages want
/// all cores of a small machine; and, as root, with the holder behind a link that is slower than the cores.
/// </summary>
internal static partial class Update
{
    private const double LeastOfSlowerStage = 0.9;
    private const int LinkMegabits = 8000;
    private const double MostMillisecondsBetweenBuckets = 0.5;
    private const string Python = "/usr/bin/python3";           // Debian's, which has Debian's pyzmq
    private static readonly TimeSpan s_timeToStart = TimeSpan.FromMinutes(1);

    internal static Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string checkpoint = bench.GetCheckpoint();
        Console.WriteLine("over the loopback");
        using (var server = new Server(bench, []))
        using (var holder = new HolderProcess(bench, checkpoint, "--hold", "map"))
        {
            (double[] ratios, double[] busy, double[] between) = Measure(bench, scoreboard, server, holder, [], "");
            scoreboard.Note("slower stage / pipeline", $"{Statistics.Median(ratios):0.00}", Statistics.Range(ratios, "0.00"));
            scoreboard.Note("cores that the pipeline kept busy / all", $"{Statistics.Median(busy):0.00}", $"{Environment.ProcessorCount} cores, {Statistics.Range(busy, "0.00")}");
            scoreboard.AtLeast("the larger of both", Statistics.Median(ratios.Zip(busy, Math.Max)), LeastOfSlowerStage, "the slower stage or the cores are the limit");
            scoreboard.Below("between two buckets, beyond copy and load", Statistics.Median(between), MostMillisecondsBetweenBuckets, "ms", $"median of {between.Length}");
        }

        using NetworkOfHosts? network = NetworkOfHosts.TryCreate(2, LinkMegabits, out string? whyNot);
        if (network is null)
        {
            Console.WriteLine($"nothing over a link: {whyNot}");
            return Task.CompletedTask;
        }
        Console.WriteLine($"over a link of {LinkMegabits} Mbit/s");
        using (var server = new Server(bench, network.On(1)))
        using (var holder = new HolderProcess(bench, network.On(0), checkpoint, ["--hold", "map", "--listen", $"http://{NetworkOfHosts.AddressOf(0)}:0", "--insecure"]))
        {
            (double[] ratios, _, _) = Measure(bench, scoreboard, server, holder, network.On(1), ", link");
            scoreboard.AtLeast("slower stage / pipeline, link", Statistics.Median(ratios), LeastOfSlowerStage, Statistics.Range(ratios, "0.00"));
        }
        return Task.CompletedTask;
    }

    // The pipeline's rates of the slower stage's, of the cores that there are, and milliseconds between buckets; by pass.
    private static (double[] Ratios, double[] Busy, double[] Between) Measure(
        Workbench bench, Scoreboard scoreboard, Server server, HolderProcess holder, string[] before, string where)
    {
        string[] join = ["join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--require-verify", "--json"];
        string[] endpoint = ["--endpoint", server.Endpoint, "--inference-parallel-size", "1"];
        string[] update = ["update", "--checkpoint-path", bench.GetCheckpoint(), "--hold", "anon", "--digest", "none", .. endpoint, "--json"];

        Run(bench, before, join);        // then the holder knows all digests, and the worker has its memory
        Run(bench, before, update);
        var seconds = new Dictionary<string, List<double>> { ["join"] = [], ["update"] = [], ["pipeline"] = [] };
        var busy = new List<double>();
        var between = new List<double>();
        for (int pass = 0; pass < bench.Options.Passes; pass++)
        {
            Action[] steps =
            [
                () => seconds["join"].Add(Run(bench, before, join).GetProperty("seconds").GetDouble()),
                () =>
                {
                    JsonElement report = Run(bench, before, update);
                    seconds["update"].Add(report.GetProperty("seconds").GetDouble());
                    between.AddRange(server.MillisecondsBetweenBuckets(report));
                },
                () =>
                {
                    double sofar = ProcessorSeconds(holder, server);
                    double total = Run(bench, before, [.. join, .. endpoint]).GetProperty("total_seconds").GetDouble();
                    seconds["pipeline"].Add(total);
                    busy.Add((ProcessorSeconds(holder, server) - sofar) / Environment.ProcessorCount / total);
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
            scoreboard.Note(name + where, $"{Statistics.Median(all):0.000} s", $"median of {all.Count}, {Statistics.Range(all, "0.000")}");
        }
        return ([.. seconds["join"].Zip(seconds["update"], Math.Max).Zip(seconds["pipeline"], static (slower, pipeline) => slower / pipeline)], [.. busy], [.. between]);
    }

    // Behind words that run it elsewhere.
    private static JsonElement Run(Workbench bench, string[] before, string[] arguments)
    {
        string[] words = [.. before, bench.Command, .. arguments];
        using JsonDocument report = JsonDocument.Parse(Workbench.Run(words[0], words.AsSpan(1)));
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
        private readonly string[] _before;

        /// <param name="bench">The repository.</param>
        /// <param name="before">Words that run it elsewhere; it becomes the process that they start.</param>
        internal Server(Workbench bench, string[] before)
        {
            _before = before;
            string[] words = [.. before, Python];
            _process = ChildProcess.Start(words[0],
                [.. words[1..], Path.Combine(bench.Root, "bench", "update", "worker.py"), "--binding", Path.Combine(bench.Root, "interop-headers", "checkpoint_engine.py")], Workbench.LongestServer,
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

        /// <summary>
        /// What passed in the worker between the buckets of the last update, beyond the pipeline's own pace: a bucket can be loaded once the one before is, and once
        /// it is copied; its copy begins when the copy before it has ended, and when the bucket that was in its half is loaded.
        /// </summary>
        internal IEnumerable<double> MillisecondsBetweenBuckets(JsonElement report)
        {
            string[] ask = [.. _before, Python, "-c", "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())", Endpoint + "/times"];
            using JsonDocument told = JsonDocument.Parse(Workbench.Run(ask[0], ask.AsSpan(1)));
            double[][] times = [.. told.RootElement.GetProperty("times").EnumerateArray().Select(bucket => bucket.EnumerateArray().Select(time => time.GetDouble()).ToArray())];
            double[] copies = [.. report.GetProperty("buckets").EnumerateArray().Select(bucket => bucket.GetProperty("copy").GetDouble())];
            double copied = times.Length == 0 ? 0 : times[0][0];
            for (int bucket = 1; bucket < times.Length; bucket++)
            {
                (double began, double before) = (times[bucket][0], times[bucket - 1][1]);
                double copyEnds = Math.Max(copied, bucket < 2 ? copied : times[bucket - 2][1]) + copies[bucket];
                yield return Math.Max(0, began - Math.Max(copyEnds, before)) * 1e3;
                copied = copyEnds > before ? began : copyEnds;      // where the copy was waited for, it ended no later than that
            }
        }

        public void Dispose() => _process.Dispose();
    }
}
