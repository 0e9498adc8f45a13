using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Http;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Metas;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>What it costs to be seen: joins with all listeners there are, beside joins with none, in one process and in alternation.</summary>
internal static class Telemetry
{
    private const double LeastOfUnseen = 0.99;
    private const double MostPercentOfACore = 1;
    private const int Units = 2_000_000;
    private const int Scrapes = 50;
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
        scoreboard.Note("processor time, without / with", $"{Statistics.Median(unseen.Processor) / Statistics.Median(seen.Processor):0.000}", $"medians of {seen.Processor.Count} joins each");
        scoreboard.AtLeast("throughput, with / without", seen.Rate / unseen.Rate, LeastOfUnseen, $"{seen.Rate / unseen.Rate:0.0000}, medians of {seen.Rates.Count} rounds each");
        (double nanoseconds, double milliseconds) = await CostAsync(holder);
        double percent = 100 * (seen.Rate * (1L << 30) / TensorDigest.ChunkBytes * nanoseconds / 1e9 + milliseconds / 1e3 / s_scrapeEvery.TotalSeconds);
        scoreboard.Below("a core's time for counting and scraping at that rate", percent, MostPercentOfACore, "%", $"{nanoseconds:0.0} ns a unit of 4 MiB, {milliseconds:0.00} ms a scrape");

        Task<JoinReport> JoinAsync() => joiner.JoinAsync(metas,
            new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Null, RequireVerify = true, Repeat = RoundsOfAJoin, Lanes = 2 });
    }

    // What is added to the work, measured by itself: a busy machine hides it in the rates.
    private static async Task<(double NanosecondsOfAUnit, double MillisecondsOfAScrape)> CostAsync(ParameterServer holder)
    {
        await using Listeners listeners = await Listeners.StartAsync(holder);
        using IReadLane lane = new TcpReadLane(new TcpLaneTarget([new IPEndPoint(IPAddress.Loopback, 1)], "measured", 2, IsOurs: true, null, TimeSpan.FromSeconds(5), TimeSpan.FromSeconds(30)));
        var counts = new LaneCounts();
        TimeSpan processor = default;
        for (int unit = 0; unit < 2 * Units; unit++)
        {
            processor = unit == Units ? Environment.CpuUsage.TotalTime : processor;
            counts.Add(lane, TensorDigest.ChunkBytes);
        }
        double nanoseconds = (Environment.CpuUsage.TotalTime - processor).TotalNanoseconds / Units;
        await listeners.ScrapeOnceAsync();
        processor = Environment.CpuUsage.TotalTime;
        for (int scrape = 0; scrape < Scrapes; scrape++)
        {
            await listeners.ScrapeOnceAsync();
        }
        return (nanoseconds, (Environment.CpuUsage.TotalTime - processor).TotalMilliseconds / Scrapes);
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
        private readonly HttpClient _client = new(new SocketsHttpHandler { UseProxy = false });
        private readonly Task _scraping;

        private Listeners(TelemetryExport export, CheckpointEngineHost host)
        {
            _export = export;
            _host = host;
            _scraping = ScrapeAsync();
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
            _client.Dispose();
            _stop.Dispose();
        }

        internal async Task ScrapeOnceAsync()
        {
            string read = await _client.GetStringAsync(_host.Addresses[0] + "/metrics", _stop.Token);
            if (!read.Contains("checkpoint_engine_serve_sent_bytes_total", StringComparison.Ordinal))
            {
                throw new BenchmarkFailedException("/metrics does not tell what is sent");
            }
        }

        private async Task ScrapeAsync()
        {
            using var timer = new PeriodicTimer(s_scrapeEvery);
            try
            {
                do
                {
                    await ScrapeOnceAsync();
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
