using System.Globalization;
using System.Text.RegularExpressions;

namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>Mooncake's transfer_engine_bench over TCP: one target for the whole run, an initiator for each figure.</summary>
internal sealed partial class MooncakeTarget : IDisposable
{
    /// <summary>Names the directory with a built <c>transfer_engine_bench</c>.</summary>
    internal const string Variable = "MOONCAKE_BENCH_DIRECTORY";

    private const string Ready = "P2P handshake, listening on ";
    private const int MostInFlight = 16;
    private const int Tries = 3;                                // a start now and then fails
    private static readonly TimeSpan s_timeToStart = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(30);

    private readonly string _program;
    private readonly Dictionary<string, string> _environment;
    private readonly ChildProcess _target;
    private readonly string _segment;

    internal MooncakeTarget(string directory)
    {
        _program = ProgramIn(directory);
        string libraries = Environment.GetEnvironmentVariable("LD_LIBRARY_PATH") is { Length: > 0 } others ? directory + ":" + others : directory;
        _environment = new Dictionary<string, string> { ["MC_FORCE_TCP"] = "1", ["LD_LIBRARY_PATH"] = libraries, ["GLOG_logtostderr"] = "1" };
        _target = ChildProcess.Start(_program, [.. Common(), "--mode=target"], Workbench.LongestServer, _environment);
        string line = _target.WaitForLine(Ready, s_timeToStart);
        _segment = line[(line.IndexOf(Ready, StringComparison.Ordinal) + Ready.Length)..].Trim();
    }

    internal static string ProgramIn(string directory) => Path.Combine(directory, "transfer_engine_bench");

    /// <summary>GiB/s of one second, a thread that keeps a batch of blocks in flight.</summary>
    /// <param name="block">Size of a block.</param>
    /// <param name="withPool">With Mooncake's pool of connections.</param>
    internal double Measure(long block, bool withPool)
    {
        // As many in flight as were found best for it at each size, and as fit into the buffer.
        long batch = Math.Clamp(BlockSizes.Whole / 16 / block, 1, MostInFlight);
        var environment = new Dictionary<string, string>(_environment);
        if (withPool)
        {
            environment.Add("MC_TCP_ENABLE_CONNECTION_POOL", "1");
        }
        for (int left = Tries; ; left--)
        {
            try
            {
                string output = ChildProcess.Run(_program,
                    [.. Common(), "--mode=initiator", "--operation=read", $"--segment_id={_segment}", $"--block_size={block}", $"--batch_size={batch}", "--threads=1", "--duration=1",
                        "--report_unit=GiB", "--report_precision=3"], s_longest, environment, withErrors: true);
                return Throughput().Match(output) is { Success: true } match
                    ? double.Parse(match.Groups[1].ValueSpan, CultureInfo.InvariantCulture)
                    : throw new BenchmarkFailedException($"transfer_engine_bench gave no throughput: {output.Trim()}");
            }
            catch (BenchmarkFailedException) when (left > 1)
            {
            }
        }
    }

    public void Dispose()
    {
        _target.Terminate();
        _target.Dispose();
    }

    // use_vram exists only where Mooncake was built for a GPU.
    private static string[] Common()
        => ["--metadata_server=P2PHANDSHAKE", "--local_server_name=127.0.0.1", "--protocol=tcp", $"--buffer_size={BlockSizes.Whole}", "--undefok=use_vram", "--use_vram=false"];

    [GeneratedRegex(@"throughput ([0-9.]+) GiB/s")]
    private static partial Regex Throughput();
}
