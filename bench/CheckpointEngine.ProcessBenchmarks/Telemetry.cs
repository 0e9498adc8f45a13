using CheckpointEngine.Http;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Metas;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>What it costs to be seen: joins with all listeners there are, beside joins with none, in one process and in alternation.</summary>
internal static class Telemetry
{
    private const double LeastOfUnseen = 0.99;
    private const int RoundsOfAJoin = 3;         // the first opens connections and is left out
    private const int JoinsOfAPass = 16;
    private static readonly TimeSpan s_scrapeEvery = TimeSpan.FromSeconds(1);

    internal static async Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string checkpoint = bench.GetCheckpoint();
        await using var holder = new ParameterServer(new ParameterServerOptions { MeasurePeers = true });
        await holder.StartAsync();
        await holder.RegisterAsync("bench", [checkpoint]);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        CheckpointMetas metas = holder.GetMetas("bench").Metas;
        await JoinAsync();       // then the holder knows all digests, and the code is warm
        var seen = new Samples();
        var unseen = new Samples();
        for (int pass = 0; pass < bench.Options.Passes; pass++)
        {
            for (int join = 0; join < JoinsOfAPass; join++)
            {
                bool isSeen = join % 4 is 0 or 3;
                await using Listeners? listeners = isSeen ? await Listeners.StartAsync(holder) : null;
                TimeSpan processor = Environment.CpuUsage.TotalTime;
                JoinReport report = await JoinAsync();
                (isSeen ? seen : unseen).Add(report, Environment.CpuUsage.TotalTime - processor);
            }
            Console.WriteLine($"pass {pass + 1}: seen {seen.Rate:0.00} GiB/s, unseen {unseen.Rate:0.00} GiB/s so far");
        }
        scoreboard.Note("join, nobody listens", $"{unseen.Rate:0.00} GiB/s", Statistics.Range(unseen.Rates, "0.00"));
        scoreboard.Note("join, counted, traced, scraped", $"{seen.Rate:0.00} GiB/s", Statistics.Range(seen.Rates, "0.00"));
        scoreboard.Note("throughput, with / without", $"{seen.Rate / unseen.Rate:0.000}", $"medians of {seen.Rates.Count} rounds each");
        scoreboard.Note("processor time, without / with, medians", $"{Statistics.Median(unseen.Processor) / Statistics.Median(seen.Processor):0.000}", $"of {seen.Processor.Count} joins each");
        double best = unseen.Processor.Min() / seen.Processor.Min();
        scoreboard.AtLeast("processor time, without / with, best", best, LeastOfUnseen, $"{best:0.0000}");

        Task<JoinReport> JoinAsync() => joiner.JoinAsync(metas,
            new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Null, RequireVerify = true, Repeat = RoundsOfAJoin, Lanes = 2 });
    }

    private sealed class Samples
    {
        internal List<double> Processor { get; } = [];

        internal List<double> Rates { get; } = [];

        internal double Rate => Statistics.Median(Rates);

        internal void Add(JoinReport report, TimeSpan processor)
        {
            Rates.AddRange(report.Rounds.Skip(1).Select(round => report.Bytes / round.Seconds / (1L << 30)));
            Processor.Add(processor.TotalSeconds);
        }
    }

    /// <summary>What <c>serve</c> has: the meters and traces read by OpenTelemetry, and a scraper at its <c>/metrics</c>; the collector is one that is not there.</summary>
    private sealed class Listeners : IAsyncDisposable
    {
        private readonly TelemetryExport _export;
        private readonly CheckpointEngineHost _host;
        private readonly CancellationTokenSource _stop = new();
        private readonly Task _scraping;

        private Listeners(TelemetryExport export, CheckpointEngineHost host)
        {
            _export = export;
            _host = host;
            _scraping = ScrapeAsync(host.Addresses[0] + "/metrics");
        }

        internal static async Task<Listeners> StartAsync(ParameterServer holder)
        {
            TelemetryExport export = TelemetryExport.Start(new Uri("http://127.0.0.1:9"));
            var listeners = new Listeners(export, await CheckpointEngineHost.StartAsync(holder, new CheckpointEngineHostOptions { Listen = ["http://127.0.0.1:0"], Telemetry = export }));
            return listeners;
        }

        public async ValueTask DisposeAsync()
        {
            await _stop.CancelAsync();
            await _scraping;
            await _host.DisposeAsync();
            _export.Dispose();
            _stop.Dispose();
        }

        private async Task ScrapeAsync(string url)
        {
            using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false });
            using var timer = new PeriodicTimer(s_scrapeEvery);
            try
            {
                do
                {
                    string read = await client.GetStringAsync(url, _stop.Token);
                    if (!read.Contains("checkpoint_engine_serve_sent_bytes_total", StringComparison.Ordinal))
                    {
                        throw new BenchmarkFailedException($"{url} does not tell what is sent");
                    }
                }
                while (await timer.WaitForNextTickAsync(_stop.Token));
            }
            catch (OperationCanceledException)
            {
                // The join is over.
            }
        }
    }
}
