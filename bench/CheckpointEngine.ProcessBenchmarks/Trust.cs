using System.Diagnostics;
using System.Globalization;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>What it costs to be sure: two holders of one checkpoint, one of which is killed while both are read; and an interrupted join that goes on.</summary>
internal static class Trust
{
    private const double MostSecondsWithoutBytes = 1;
    private const double MostBytesTwice = 0.05;
    private const double MostMillisecondsOfALease = 1;
    private const int Leases = 2001;
    private static readonly TimeSpan s_tick = TimeSpan.FromMilliseconds(50);       // as often as a join tells

    internal static async Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string checkpoint = bench.GetCheckpoint();
        var gaps = new List<double>();
        var twice = new List<double>();
        var whole = new List<double>();
        var cut = new List<double>();
        for (int pass = 0; pass < bench.Options.Passes; pass++)
        {
            using var first = new HolderProcess(bench, checkpoint, "--hold", "map");
            using var second = new HolderProcess(bench, checkpoint, "--hold", "map");
            using var client = new MetasClient();
            CheckpointMetas metas = CheckpointMetas.Combine(await client.FetchAsync(first.MetasUrl), await client.FetchAsync(second.MetasUrl));
            await using var joiner = new ParameterServer(new ParameterServerOptions());
            var options = new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Null, RequireVerify = true, Repeat = 8 };
            whole.Add((await joiner.JoinAsync(metas, options)).Rounds.Sum(round => round.Seconds));      // then the holders know all digests

            var clock = new Clock(first);
            JoinReport report = await joiner.JoinAsync(metas, options, clock);
            cut.Add(report.Rounds.Sum(round => round.Seconds));
            if (!report.Warnings.Any(warning => warning.StartsWith("went on without", StringComparison.Ordinal)) || !report.Verified)
            {
                throw new BenchmarkFailedException("the holder was killed too late, or nobody noticed");
            }
            gaps.Add(clock.LongestGap);
            twice.Add((double)report.RetriedBytes / (report.Bytes * report.Rounds.Count));
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"pass {pass + 1}: longest silence {clock.LongestGap:0.00} s, {report.RetriedBytes:N0} bytes asked for twice, {cut[pass]:0.00} s, undisturbed {whole[pass]:0.00} s"));
        }
        scoreboard.Below("kill -9 of one of two holders: longest time without a byte", Statistics.Median(gaps), MostSecondsWithoutBytes, "s", $"median of {gaps.Count}, {Statistics.Range(gaps, "0.00")}; told every {s_tick.TotalMilliseconds:0} ms");
        scoreboard.Below("bytes asked for twice / all", Statistics.Median(twice), MostBytesTwice, "", Statistics.Range(twice, "0.0000"));
        scoreboard.Below("a lease taken and given back on an open conversation", await LeaseMillisecondsAsync(checkpoint), MostMillisecondsOfALease, "ms", $"median of {Leases}");
        scoreboard.Note("seconds with it / without", $"{Statistics.Median(cut.Zip(whole, static (with, without) => with / without)):0.00}");
    }

    // What a join adds for it: the conversation is there for digests anyway.
    private static async Task<double> LeaseMillisecondsAsync(string checkpoint)
    {
        await using var holder = new ParameterServer(new ParameterServerOptions { Digest = Checkpoints.DigestAlgorithm.None });
        await holder.StartAsync();
        await holder.RegisterAsync("bench", [checkpoint]);
        ulong address = holder.GetMetas("bench").Metas.Owners[0].Buffers[0].Address;
        using PeerClient client = await PeerClient.ConnectAsync(EndpointName.Parse(holder.PeerUrl.AsSpan("ce://".Length)), null, TimeSpan.FromSeconds(30), CancellationToken.None);
        var milliseconds = new List<double>();
        for (int lease = 0; lease < 2 * Leases; lease++)
        {
            long start = Stopwatch.GetTimestamp();
            await client.LeaseAsync(address, CancellationToken.None);
            await client.ReleaseAsync(address, CancellationToken.None);
            if (lease >= Leases)
            {
                milliseconds.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
            }
        }
        return Statistics.Median(milliseconds);
    }

    // Kills the first holder in the third round, and measures from then on.
    private sealed class Clock(HolderProcess victim) : IProgress<JoinProgress>
    {
        private long _lastBytes = -1;
        private long _lastChange;
        private int _rounds;
        private bool _killed;

        internal double LongestGap { get; private set; }

        public void Report(JoinProgress value)
        {
            long now = Stopwatch.GetTimestamp();
            if (value.Phase == "transfer" && value.BytesDone < _lastBytes)
            {
                _rounds++;
            }
            if (value.BytesDone != _lastBytes)
            {
                LongestGap = _killed ? Math.Max(LongestGap, Stopwatch.GetElapsedTime(_lastChange, now).TotalSeconds) : 0;
                (_lastBytes, _lastChange) = (value.BytesDone, now);
            }
            if (!_killed && _rounds >= 2 && value.Phase == "transfer" && value.BytesDone > value.BytesTotal / 10)
            {
                _killed = true;
                using var process = Process.GetProcessById(victim.Id);
                process.Kill();
            }
        }
    }
}
