using System.Globalization;

namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>ucx_perftest: two processes for each figure, since its server ends with its client.</summary>
internal static class UcxPerftest
{
    private const long Bytes = 256L << 20;          // of the messages that count
    private const double MiB = 1024;                // in a GiB; what ucx_perftest calls MB is 2^20 bytes
    private const int OverallBandwidth = 5;         // iterations, 50.0_percentile_lat, avg_lat, overall_lat, avg_bw, overall_bw, avg_mr, overall_mr
    private const int Columns = 8;
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(60);

    /// <summary>GiB/s over the whole test.</summary>
    /// <param name="transports">For <c>UCX_TLS</c>.</param>
    /// <param name="test"><c>tag_bw</c>, <c>ucp_get</c>, …</param>
    /// <param name="block">Size of a message.</param>
    internal static double Measure(string transports, string test, long block)
    {
        long messages = Math.Max(1, Bytes / block);
        var environment = new Dictionary<string, string> { ["UCX_TLS"] = transports, ["UCX_NET_DEVICES"] = "lo", ["UCX_WARN_UNUSED_ENV_VARS"] = "n" };
        (ChildProcess server, int port) = LoopbackPort.Start(free => ChildProcess.Start(ToolFinder.Ucx, ["-p", $"{free}"], s_longest, environment));
        using (server)
        {
            string output = ChildProcess.Run(ToolFinder.Ucx,
                ["127.0.0.1", "-p", $"{port}", "-t", test, "-s", $"{block}", "-n", $"{messages}", "-w", $"{Math.Max(1, messages / 8)}", "-f", "-v"], s_longest, environment);
            string[] fields = output.Split('\n').Select(line => line.Split(',')).LastOrDefault(line => line.Length == Columns && long.TryParse(line[0], out _))
                ?? throw new BenchmarkFailedException($"ucx_perftest {test} over {transports} gave no figures: {output.Trim()}");
            return double.Parse(fields[OverallBandwidth], CultureInfo.InvariantCulture) / MiB;
        }
    }
}
