using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Http;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Metas;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>What it costs to be seen: joins with all listeners there are, beside joins with none, in one process and in alternation.</summary>
internal static class Telemetry
{
    private const double LeastOfUnseen = 0.99;
    private const double MostPercentOfACore = 1;
    private const int Units = 2_000_000;
    private const int Scrapes = 50;
    private const int RoundsOfAJoin = 5;         // of the rates the first is left out, which opens connections
    private const int PairsOfAPass = 8;
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
        Environment.SetEnvironmentVariable("OTEL_METRIC_EXPORT_INTERVAL", $"{s_scrapeEvery.TotalMilliseconds}");      // sixty times as often as usual
        await using var sink = await Sink.StartAsync();
        List<Sample> seen = [], unseen = [];
        for (int pass = 0; pass < bench.Options.Passes; pass++)
        {
            for (int pair = 0; pair < PairsOfAPass; pair++)
            {
                bool isSeenFirst = pair % 2 == 0;
                Sample first = await MeasureAsync(isSeenFirst), second = await MeasureAsync(!isSeenFirst);
                seen.Add(isSeenFirst ? first : second);
                unseen.Add(isSeenFirst ? second : first);
            }
            Console.WriteLine($"pass {pass + 1}: {seen.Count} pairs, processor's time with / without {Statistics.Median(Ratios(sample => sample.SecondsOfAGib)):0.0000} so far");
        }
        if (sink.Received == 0)
        {
            throw new BenchmarkFailedException("the collector was sent nothing");
        }
        double[] rates = Ratios(sample => sample.Rate), processor = Ratios(sample => sample.SecondsOfAGib);
        double rate = Statistics.Median(seen.Select(sample => sample.Rate));
        scoreboard.Note("join, nobody listens", $"{Statistics.Median(unseen.Select(sample => sample.Rate)):0.00} GiB/s", Statistics.Range(unseen.Select(sample => sample.Rate), "0.00"));
        scoreboard.Note("join, counted, traced, scraped", $"{rate:0.00} GiB/s", Statistics.Range(seen.Select(sample => sample.Rate), "0.00"));
        scoreboard.Note("processor's time of a GiB, nobody listens", $"{1e3 * Statistics.Median(unseen.Select(sample => sample.SecondsOfAGib)):0.0} ms", "user and system, of both ends");
        scoreboard.AtLeast("throughput, with / without", Statistics.Median(rates), LeastOfUnseen, Describe(rates));
        scoreboard.AtLeast("processor's time of a GiB, without / with", 1 / Statistics.Median(processor), LeastOfUnseen, "with / without: " + Describe(processor));
        (double nanoseconds, double milliseconds) = await CostAsync(holder);
        double percent = 100 * (rate * (1L << 30) / TensorDigest.ChunkBytes * nanoseconds / 1e9 + milliseconds / 1e3 / s_scrapeEvery.TotalSeconds);
        scoreboard.Below("a core's time for counting and scraping at that rate", percent, MostPercentOfACore, "%", $"{nanoseconds:0.0} ns a unit of 4 MiB, {milliseconds:0.00} ms a scrape");

        double[] Ratios(Func<Sample, double> figure) => [.. seen.Zip(unseen, (with, without) => figure(with) / figure(without))];

        async Task<Sample> MeasureAsync(bool isSeen)
        {
            await using Listeners? listeners = isSeen ? await Listeners.StartAsync(holder, sink.Uri) : null;
            await JoinAsync(rounds: 1);      // what starts with the listeners is done then, and both begin behind the same
            TimeSpan before = Environment.CpuUsage.TotalTime;
            JoinReport report = await JoinAsync();
            double gib = (double)report.Bytes / (1L << 30);
            return new Sample(Statistics.Median(report.Rounds.Skip(1).Select(round => gib / round.Seconds)), (Environment.CpuUsage.TotalTime - before).TotalSeconds / (gib * RoundsOfAJoin));
        }

        Task<JoinReport> JoinAsync(int rounds = RoundsOfAJoin) => joiner.JoinAsync(metas,
            new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Null, RequireVerify = true, Repeat = rounds, Lanes = 2 });
    }

    // What is added to the work, measured by itself: a busy machine hides it in the rates.
    private static async Task<(double NanosecondsOfAUnit, double MillisecondsOfAScrape)> CostAsync(ParameterServer holder)
    {
        await using Listeners listeners = await Listeners.StartAsync(holder, new Uri("http://127.0.0.1:9"));
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

    private static string Describe(double[] ratios)
    {
        (double low, double high) = Statistics.MedianInterval(ratios);
        return $"{Statistics.Median(ratios):0.0000}, 95 % of {low:0.0000} to {high:0.0000}, {ratios.Length} pairs";
    }

    /// <summary>One join.</summary>
    /// <param name="Rate">GiB a second.</param>
    /// <param name="SecondsOfAGib">The processor's time that both ends took for a GiB: what others do on the machine moves it far less than the clock.</param>
    private readonly record struct Sample(double Rate, double SecondsOfAGib);

    /// <summary>A collector that takes all and keeps nothing.</summary>
    private sealed class Sink : IAsyncDisposable
    {
        private readonly WebApplication _application;
        private int _received;

        private Sink(WebApplication application) => _application = application;

        internal int Received => Volatile.Read(ref _received);

        internal Uri Uri => new(_application.Urls.Single());

        internal static async Task<Sink> StartAsync()
        {
            WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
            builder.WebHost.UseKestrelCore().UseUrls("http://127.0.0.1:0");
            WebApplication application = builder.Build();
            var sink = new Sink(application);
            application.Run(async context =>
            {
                await context.Request.Body.CopyToAsync(Stream.Null, context.RequestAborted);
                Interlocked.Increment(ref sink._received);
                context.Response.ContentType = "application/x-protobuf";
            });
            await application.StartAsync();
            return sink;
        }

        public async ValueTask DisposeAsync()
        {
            await _application.StopAsync();
            await _application.DisposeAsync();
        }
    }

    /// <summary>What <c>serve</c> has: the meters and traces read by OpenTelemetry and sent to a collector, and a scraper at its <c>/metrics</c>.</summary>
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

        internal static async Task<Listeners> StartAsync(ParameterServer holder, Uri collector)
        {
            TelemetryExport export = TelemetryExport.Start(collector);
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
