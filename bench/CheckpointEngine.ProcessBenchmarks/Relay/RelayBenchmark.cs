using System.Globalization;
using System.Text.Json;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.ProcessBenchmarks.Relay;

/// <summary>
/// Joins that are started together behind one holder: up to eight real ones, each on a network namespace of its own, the holder's link limited; and up to
/// ten thousand simulated ones, by the code that decides in the real ones.
/// </summary>
internal static class RelayBenchmark
{
    private const int OwnerMegabits = 400;
    private const int MostJoiners = 8;
    private const double MostTimes = 1.6;
    private const double MostCopies = 2.5;
    private const double MostRoundMilliseconds = 100;

    private const double SimulatedGib = 4;
    private const double SimulatedGigabits = 10;
    private static readonly int[] s_simulated = [1, 2, 8, 32, 100, 320, 1000, 3200, 10_000];

    internal static async Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        await RunRealAsync(bench, scoreboard);
        RunSimulated(bench, scoreboard);
    }

    private static async Task RunRealAsync(Workbench bench, Scoreboard scoreboard)
    {
        using NetworkOfHosts? network = NetworkOfHosts.TryCreate(1 + MostJoiners, OwnerMegabits, out string? whyNot);
        if (network is null)
        {
            Console.WriteLine($"no real joins: {whyNot}");
            return;
        }
        string checkpoint = bench.GetCheckpoint();
        using var holder = new HolderProcess(bench, network.On(0), checkpoint, ["--listen", $"http://{NetworkOfHosts.AddressOf(0)}:0", "--insecure"]);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{bench.Options.Gib:0.##} GiB, the holder's link {OwnerMegabits} Mbit/s each way: {bench.Options.Gib * 8 * 1.073741824e9 / (OwnerMegabits * 1e6):0.0} s at the least"));
        Console.WriteLine("  joiners  slowest s  of one alone  holder sent, copies");
        double alone = 0;
        foreach (int joiners in (int[])[1, 2, 4, MostJoiners])
        {
            var seconds = new List<double>();
            var copies = new List<double>();
            for (int pass = 0; pass < bench.Options.Passes; pass++)
            {
                long before = network.BytesSentBy(0);
                (double slowest, long bytes) = await JoinAsync(bench, holder, network, joiners);
                seconds.Add(slowest);
                copies.Add((network.BytesSentBy(0) - before) / (double)bytes);
            }
            double median = Statistics.Median(seconds);
            alone = joiners == 1 ? median : alone;
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"  {joiners,7}  {median,9:0.00}  {median / alone,12:0.00}  {Statistics.Median(copies),19:0.00}   ({Statistics.Range(seconds, "0.00")} s)"));
            if (joiners == MostJoiners)
            {
                scoreboard.Below($"{joiners} joiners at once: time of the slowest / of one alone", median / alone, MostTimes, "", $"median of {seconds.Count}");
                scoreboard.Below($"{joiners} joiners at once: copies that the holder sent", Statistics.Median(copies), MostCopies, "", "with all headers, by the device's counter");
            }
        }
    }

    private static async Task<(double Slowest, long Bytes)> JoinAsync(Workbench bench, HolderProcess holder, NetworkOfHosts network, int joiners)
    {
        string[] reports = await Task.WhenAll(Enumerable.Range(1, joiners).Select(host => Task.Run(() =>
        {
            string[] words = [.. network.On(host), bench.Command, "join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--require-verify", "--json", .. joiners == 1 ? [] : (string[])["--relay"]];
            return ChildProcess.Run(words[0], words[1..], Workbench.LongestServer);
        })));
        double slowest = 0;
        long bytes = 0;
        foreach (string report in reports)
        {
            using JsonDocument document = JsonDocument.Parse(report);
            slowest = Math.Max(slowest, document.RootElement.GetProperty("seconds").GetDouble());
            bytes = document.RootElement.GetProperty("bytes").GetInt64();
        }
        return (slowest, bytes);
    }

    private static void RunSimulated(Workbench bench, Scoreboard scoreboard)
    {
        Console.WriteLine($"\nsimulated: {SimulatedGib:0.#} GiB, every link {SimulatedGigabits:0.#} Gbit/s, all start within half a second, others learn within 50 ms who has what");
        Console.WriteLine("  joiners  least s  last s  last/least  median s  owner's copies  busiest joiner's  questions  round ms  without relay s");
        var results = new List<(SwarmCase Case, SwarmResult Result)>();
        foreach (int joiners in s_simulated)
        {
            double rate = SimulatedGigabits * 1e9 / 8;
            var simulated = new SwarmCase(joiners, (int)(SimulatedGib * 256), 4 << 20, rate, rate, TimeSpan.FromMilliseconds(50), TimeSpan.FromSeconds(joiners == 1 ? 0 : 0.5), Seed: 1);
            SwarmResult result = SwarmSimulation.Run(simulated);
            results.Add((simulated, result));
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"  {joiners,7}  {simulated.LowerBoundSeconds,7:0.00}  {result.Seconds,6:0.00}  {result.Seconds / simulated.LowerBoundSeconds,10:0.00}  {result.MedianSeconds,8:0.00}  {result.OwnerCopies,14:0.00}  {result.MostCopies,16:0.00}  {result.Questions,9}  {result.RoundMilliseconds,8:0.0}  {simulated.AloneSeconds,15:0}"));
        }
        scoreboard.Below($"one decision for each of {results[^1].Case.Joiners:N0} joiners", results[^1].Result.RoundMilliseconds, MostRoundMilliseconds, "ms", "the owner's answers alone, real time");
        if (bench.Options.WriteTo is string directory)
        {
            Directory.CreateDirectory(directory);
            string plot = Path.Combine(directory, "relay.svg");
            File.WriteAllText(plot, RelayPlot.ToSvg(results));
            Console.WriteLine($"wrote {plot}");
        }
    }
}
