using System.Globalization;
using System.Text.Json;
using CheckpointEngine.ProcessBenchmarks.Compare;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// What the binding to Mooncake's library costs: its lane beside a C program on the same API and library, in turns, both from one Mooncake target over TCP.
/// </summary>
/// <remarks>
/// The C program, <c>te-read-bench SEGMENT ADDRESS-IN-HEX BLOCK COUNT DEPTH</c>, waits for whole batches, and polls without sleeping; a line of its output
/// begins with GB/s. The target is <c>mooncake-peer hold</c>, as tests/CheckpointEngine.Rdma.Tests describes it.
/// </remarks>
internal static class MooncakeLibrary
{
    private const string LibraryVariable = "CHECKPOINT_ENGINE_MOONCAKE_LIBRARY";
    private const int TargetBytes = 128 << 20;
    private const double LeastRatio = 0.98;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);
    private static readonly (int Block, int Count, int Depth)[] s_rows = [(64 << 10, 8192, 16), (1 << 20, 1024, 16), (4 << 20, 256, 8)];

    internal static Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string directory = Environment.GetEnvironmentVariable(MooncakeTarget.Variable) is { Length: > 0 } named && Environment.GetEnvironmentVariable(LibraryVariable) is { Length: > 0 }
            ? named
            : throw new BenchmarkFailedException($"{LibraryVariable} must name Mooncake's library, and {MooncakeTarget.Variable} the directory of te-read-bench and mooncake-peer");
        var environment = new Dictionary<string, string> { ["MC_FORCE_TCP"] = "1", ["DOTNET_TieredCompilation"] = "0" };
        string project = Path.Combine(bench.Root, "bench", "CheckpointEngine.Benchmarks");
        Workbench.Run("dotnet", "build", project, "-c", "Release", "--nologo", "-v", "quiet");
        using ChildProcess target = ChildProcess.Start(Path.Combine(directory, "mooncake-peer"), ["hold", "--size", $"{TargetBytes}", "--seed", "1"], Workbench.LongestServer, environment);
        using JsonDocument held = JsonDocument.Parse(target.WaitForLine("{\"segment\":", s_patience));
        string segment = held.RootElement.GetProperty("segment").GetString()!;
        ulong address = held.RootElement.GetProperty("address").GetUInt64();
        using ChildProcess lane = ChildProcess.Start(Path.Combine(project, "bin", "Release", "net10.0", "CheckpointEngine.Benchmarks"),
            ["mooncake-read", segment, $"{address}", $"{TargetBytes}"], Workbench.LongestServer, environment);
        lane.WaitForLine("ready", s_patience);
        foreach ((int block, int count, int depth) in s_rows)
        {
            var ours = new List<double>();
            var theirs = new List<double>();
            for (int pass = 0; pass < bench.Options.Passes; pass++)
            {
                // Every other pass backwards: whoever comes second finds another machine.
                for (int turn = 0; turn < 2; turn++)
                {
                    if ((turn + pass) % 2 == 0)
                    {
                        theirs.Add(OfC(block, count, depth));
                    }
                    else
                    {
                        ours.Add(OfLane(block, count, depth));
                    }
                }
            }
            double ratio = Statistics.Median(ours.Zip(theirs, static (a, b) => a / b));
            scoreboard.AtLeast($"the binding over the C program, {block >> 10} KiB x {depth}", ratio, LeastRatio,
                $"{Statistics.Median(ours):0.00} ({Statistics.Range(ours, "0.00")}) and {Statistics.Median(theirs):0.00} ({Statistics.Range(theirs, "0.00")}) GB/s, median of {bench.Options.Passes} pairs");
        }
        return Task.CompletedTask;

        double OfLane(int block, int count, int depth)
        {
            lane.Input.WriteLine($"{block} {count} {depth}");
            lane.Input.Flush();
            return (double)block * count / double.Parse(lane.WaitForLine("", s_patience), CultureInfo.InvariantCulture) / 1e9;
        }

        double OfC(int block, int count, int depth)
            => double.Parse(ChildProcess.Run(Path.Combine(directory, "te-read-bench"), [segment, address.ToString("x", CultureInfo.InvariantCulture), $"{block}", $"{count}", $"{depth}"],
                s_patience, environment).Split(' ')[0], CultureInfo.InvariantCulture);
    }
}
