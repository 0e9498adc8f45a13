namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// Two processes over the loopback beside a bare socket pump: warm rounds beside warm ones, the first round (allocation inside) beside the pump
/// into untouched memory, verified beside unverified. Everything alternates within a pass; a ratio is the median of the passes' own ratios.
/// </summary>
internal static class JoinVersusPump
{
    private const int Rounds = 5;            // the first is cold
    private const int ColdSamples = 4;
    private const double LeastOfPump = 0.9;
    private const double LeastOfUnverified = 0.9;

    // The system's default, which users' other tools get, and the one that our sender takes on a loopback: BBR paces there for nothing.
    private static readonly string[] s_congestions = ["default", "reno"];

    internal static Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        using var holder = new HolderProcess(bench, bench.GetCheckpoint(), "--hold", bench.Options.Hold);
        // Verified once before anything counts: then the holder has touched its memory and knows all digests.
        long bytes = holder.Join(1 + 1, verify: true).Bytes;
        using var pump = new PumpServer(bench, bytes, s_congestions);

        var passes = new List<Pass>();
        for (int index = 0; index < bench.Options.Passes; index++)
        {
            var pass = new Pass(bytes);
            Action[] steps =
            [
                () => pass.Pump(pump, "default", bench.Options.Connections),
                () => pass.Join(holder, verify: false),
                () => pass.Pump(pump, "reno", bench.Options.Connections),
                () => pass.Join(holder, verify: true),
                () => pass.Cold(pump, holder, bench.Options.Connections),
            ];
            // Every other pass backwards, so that nothing always comes behind the same thing.
            foreach (Action step in index % 2 == 0 ? steps : steps.Reverse())
            {
                step();
            }
            passes.Add(pass);
            Console.WriteLine($"pass {index + 1}: {pass}");
        }
        Report(passes, scoreboard);
        return Task.CompletedTask;
    }

    private static void Report(List<Pass> passes, Scoreboard scoreboard)
    {
        foreach (string key in passes[0].Rates.Keys)
        {
            double[] rates = [.. passes.Select(pass => pass.Rates[key])];
            scoreboard.Note(key, $"{Statistics.Median(rates):0.00} GiB/s", Statistics.Range(rates, "0.00"));
        }
        foreach (string congestion in s_congestions)
        {
            Ratio($"join / pump {congestion}, warm", "join warm", $"pump {congestion} warm", LeastOfPump);
            Ratio($"join / pump {congestion}, cold", "join cold", $"pump {congestion} cold", LeastOfPump);
        }
        Ratio("verified / unverified, warm", "join verified warm", "join warm", LeastOfUnverified);
        Ratio("verified / unverified, cold", "join verified cold", "join cold", LeastOfUnverified);

        void Ratio(string name, string ours, string limit, double least)
        {
            double[] ratios = [.. passes.Select(pass => pass.Rates[ours] / pass.Rates[limit])];
            scoreboard.AtLeast(name, Statistics.Median(ratios), least, Statistics.Range(ratios, "0.00"));
        }
    }

    private sealed class Pass(long bytes)
    {
        /// <summary>GiB/s by what was measured, in the order of the report.</summary>
        internal SortedDictionary<string, double> Rates { get; } = new(StringComparer.Ordinal);

        internal void Join(HolderProcess holder, bool verify)
        {
            JoinResult join = holder.Join(Rounds, verify);
            string name = verify ? "join verified" : "join";
            Rates[name + " warm"] = ToRate(Statistics.Median(join.Seconds.Skip(1)));
        }

        internal void Pump(PumpServer pump, string congestion, IReadOnlyList<int> connections)
        {
            // The best count of connections is the limit: ours finds its own.
            Rates[$"pump {congestion} warm"] = connections.Max(count => ToRate(Statistics.Median(pump.Receive(congestion, bytes, cold: false, Rounds - 1, count))));
        }

        // Fresh memory costs what the host makes of it at that moment (pages that a process gave back may have left the virtual machine): every
        // sample is the first round of a new process, and the two kinds take turns.
        internal void Cold(PumpServer pump, HolderProcess holder, IReadOnlyList<int> connections)
        {
            var samples = new SortedDictionary<string, List<double>>(StringComparer.Ordinal);
            for (int sample = 0; sample < ColdSamples; sample++)
            {
                foreach (string congestion in s_congestions)
                {
                    Add($"pump {congestion} cold", connections.Max(count => ToRate(pump.Receive(congestion, bytes, cold: true, 1, count)[0])));
                }
                foreach (bool verify in sample % 2 == 0 ? (bool[])[false, true] : [true, false])
                {
                    Add(verify ? "join verified cold" : "join cold", ToRate(holder.Join(2, verify).Seconds[0]));
                }
            }
            foreach ((string name, List<double> rates) in samples)
            {
                Rates[name] = Statistics.Median(rates);
            }

            void Add(string name, double rate)
            {
                if (!samples.TryGetValue(name, out List<double>? rates))
                {
                    samples.Add(name, rates = []);
                }
                rates.Add(rate);
            }
        }

        public override string ToString() => string.Join("  ", Rates.Select(rate => $"{rate.Key} {rate.Value:0.00}")) + " GiB/s";

        private double ToRate(double seconds) => bytes / seconds / (1L << 30);
    }
}
