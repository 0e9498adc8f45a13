using System.Globalization;
using System.Text.Json;
using CheckpointEngine.Benchmarks;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>What TLS 1.3 on the data lanes costs: joins over TCP from a holder that encrypts and from one that does not, in turns, and the processor's time at both ends.</summary>
internal static class Encrypt
{
    private const int RoundsOfAJoin = 3;       // the first is cold
    private const double LeastOfPlain = 0.15;

    internal static Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string checkpoint = bench.GetCheckpoint();
        using var certificate = new LoopbackCertificate();
        using var plain = new HolderProcess(bench, checkpoint, "--hold", "anon");
        using var encrypted = new HolderProcess(bench, checkpoint, "--hold", "anon", "--encrypt", "--tls-cert", certificate.CertificateFile, "--tls-key", certificate.KeyFile);
        Side[] sides =
        [
            new Side("plain", plain, []), new Side("encrypted", encrypted, ["--encrypt", "--ca-file", certificate.CertificateFile]),
        ];
        foreach (Side side in sides)
        {
            side.Join();        // then the holder knows all digests
            side.Clear();
        }
        for (int pass = 0; pass < bench.Options.Passes; pass++)
        {
            foreach (Side side in pass % 2 == 0 ? sides : sides.Reverse())
            {
                side.Join();
            }
            Console.WriteLine($"pass {pass + 1}: {string.Join("  ", sides.Select(side => string.Create(CultureInfo.InvariantCulture, $"{side.Name} {side.Rates[pass]:0.00} GiB/s, {side.Processor[pass]:0.00} core-s a GiB at the holder")))}");
        }
        foreach (Side side in sides)
        {
            scoreboard.Note($"join, {side.Name}, warm, verified", $"{Statistics.Median(side.Rates):0.00} GiB/s", Statistics.Range(side.Rates, "0.00"));
            scoreboard.Note($"holder's time for a GiB, {side.Name}", $"{Statistics.Median(side.Processor):0.00} core-s", Statistics.Range(side.Processor, "0.00"));
        }
        double[] ratios = [.. sides[1].Rates.Zip(sides[0].Rates, static (with, without) => with / without)];
        scoreboard.AtLeast("encrypted / plain", Statistics.Median(ratios), LeastOfPlain, $"{Statistics.Range(ratios, "0.00")}; lanes as the join finds out");
        return Task.CompletedTask;
    }

    /// <summary>One of the two, and what it gave.</summary>
    private sealed class Side(string name, HolderProcess holder, string[] more)
    {
        internal string Name => name;

        internal List<double> Rates { get; } = [];

        internal List<double> Processor { get; } = [];

        internal void Clear()
        {
            Rates.Clear();
            Processor.Clear();
        }

        internal void Join()
        {
            TimeSpan before = holder.ProcessorTime;
            using JsonDocument report = JsonDocument.Parse(Workbench.Run(holder.Command,
                ["join", "--metas-url", holder.MetasUrl, "--to", "memory", "--transport", "tcp", "--repeat", $"{RoundsOfAJoin}", "--require-verify", "--json", .. more]));
            TimeSpan spent = holder.ProcessorTime - before;
            double gib = report.RootElement.GetProperty("bytes").GetInt64() / (double)(1L << 30);
            Rates.Add(Statistics.Median(report.RootElement.GetProperty("rounds").EnumerateArray().Skip(1).Select(round => gib / round.GetProperty("seconds").GetDouble())));
            Processor.Add(spent.TotalSeconds / (RoundsOfAJoin * gib));
            if (report.RootElement.GetProperty("owners")[0].TryGetProperty("encrypted", out _) != (more.Length != 0))
            {
                throw new BenchmarkFailedException($"the join that should be {name} was not");
            }
        }
    }
}
