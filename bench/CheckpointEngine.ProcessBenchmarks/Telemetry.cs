using System.Text.Json;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// What it costs to be seen: joins whose two ends are counted, traced and sent to a collector, the holder's <c>/metrics</c> read too, in turns with joins whose two ends have
/// OpenTelemetry switched off. All are processes as they ship.
/// </summary>
internal static class Telemetry
{
    private const double LeastOfUnseen = 0.99;
    private const double MostPercentOfACore = 1;
    private const int RoundsOfAJoin = 9;         // of the rates the first is left out, which opens connections
    private const int PairsOfAPass = 6;
    private static readonly TimeSpan s_every = TimeSpan.FromSeconds(1);        // metrics are sent and read sixty and fifteen times as often as usual
    private static readonly TimeSpan s_idle = TimeSpan.FromSeconds(10);

    internal static async Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string checkpoint = bench.GetCheckpoint();
        await using var sink = await Sink.StartAsync();
        string[] isSeen = ["env", $"OTEL_METRIC_EXPORT_INTERVAL={s_every.TotalMilliseconds}", $"OTEL_EXPORTER_OTLP_ENDPOINT={sink.Uri}"], isNot = ["env", "OTEL_SDK_DISABLED=true"];
        using var seen = new Side(bench, checkpoint, isSeen);
        using var unseen = new Side(bench, checkpoint, isNot);
        await using var scraper = new Scraper(new Uri(new Uri(seen.Holder.MetasUrl), "/metrics"));
        seen.Join();        // then the holders know all digests
        unseen.Join();
        seen.Samples.Clear();
        unseen.Samples.Clear();
        for (int pass = 0; pass < bench.Options.Passes; pass++)
        {
            for (int pair = 0; pair < PairsOfAPass; pair++)
            {
                (pair % 2 == 0 ? seen : unseen).Join();
                (pair % 2 == 0 ? unseen : seen).Join();
            }
            Console.WriteLine($"pass {pass + 1}: {seen.Samples.Count} pairs, processor's time with / without {Statistics.Median(Ratios(static sample => sample.SecondsOfAGib)):0.0000} so far");
        }
        TimeSpan before = seen.Holder.ProcessorTime, beforeUnseen = unseen.Holder.ProcessorTime;
        await Task.Delay(s_idle);
        double percent = 100 * (seen.Holder.ProcessorTime - before - (unseen.Holder.ProcessorTime - beforeUnseen)) / s_idle;
        if (sink.Received == 0 || scraper.Read == 0)
        {
            throw new BenchmarkFailedException($"the collector was sent {sink.Received} messages, and /metrics was read {scraper.Read} times");
        }
        double[] rates = Ratios(static sample => sample.Rate), processor = Ratios(static sample => sample.SecondsOfAGib);
        scoreboard.Note("join, OpenTelemetry off", $"{Statistics.Median(unseen.Samples.Select(sample => sample.Rate)):0.00} GiB/s", Statistics.Range(unseen.Samples.Select(sample => sample.Rate), "0.00"));
        scoreboard.Note("join, counted, traced, sent, read", $"{Statistics.Median(seen.Samples.Select(sample => sample.Rate)):0.00} GiB/s", Statistics.Range(seen.Samples.Select(sample => sample.Rate), "0.00"));
        scoreboard.Note("processor's time of a GiB, OpenTelemetry off", $"{1e3 * Statistics.Median(unseen.Samples.Select(sample => sample.SecondsOfAGib)):0.0} ms", "user and system, of both processes, their starts included");
        scoreboard.AtLeast("throughput, with / without", Statistics.Median(rates), LeastOfUnseen, Describe(rates));
        scoreboard.AtLeast("processor's time of a GiB, without / with", 1 / Statistics.Median(processor), LeastOfUnseen, "with / without: " + Describe(processor));
        scoreboard.Below("a core's time of a holder that nobody joins, more than without", percent, MostPercentOfACore, "%", $"sent and read every {s_every.TotalSeconds:0} s");

        double[] Ratios(Func<Sample, double> figure) => [.. seen.Samples.Zip(unseen.Samples, (with, without) => figure(with) / figure(without))];
    }

    private static string Describe(double[] ratios)
    {
        (double low, double high) = Statistics.MedianInterval(ratios);
        return $"{Statistics.Median(ratios):0.0000}, 95 % of {low:0.0000} to {high:0.0000}, {ratios.Length} pairs";
    }

    /// <summary>A join of some rounds.</summary>
    /// <param name="Rate">GiB a second, the median of its rounds.</param>
    /// <param name="SecondsOfAGib">The processor's time that both ends took for a GiB: what others do on the machine moves it far less than the clock.</param>
    private readonly record struct Sample(double Rate, double SecondsOfAGib);

    /// <summary>A holder and its joiners, in one environment.</summary>
    private sealed class Side(Workbench bench, string checkpoint, string[] environment) : IDisposable
    {
        internal HolderProcess Holder { get; } = new(bench, environment, checkpoint, ["--listen", "http://127.0.0.1:0"]);

        internal List<Sample> Samples { get; } = [];

        internal void Join()
        {
            TimeSpan ofHolder = Holder.ProcessorTime, ofJoiners = ProcessorClock.OfEndedChildren;
            using JsonDocument report = JsonDocument.Parse(Workbench.Run(environment[0], [.. environment.AsSpan(1), Holder.Command, "join", "--metas-url", Holder.MetasUrl, "--to", "null",
                "--transport", "tcp", "--lanes", "2", "--repeat", $"{RoundsOfAJoin}", "--require-verify", "--json"]));
            double gib = report.RootElement.GetProperty("bytes").GetInt64() / (double)(1L << 30);
            double seconds = (Holder.ProcessorTime - ofHolder + ProcessorClock.OfEndedChildren - ofJoiners).TotalSeconds;
            Samples.Add(new Sample(Statistics.Median(report.RootElement.GetProperty("rounds").EnumerateArray().Skip(1).Select(round => gib / round.GetProperty("seconds").GetDouble())),
                seconds / (gib * RoundsOfAJoin)));
        }

        public void Dispose() => Holder.Dispose();
    }

    /// <summary>A collector that takes all and keeps nothing.</summary>
    private sealed class Sink : IAsyncDisposable
    {
        private readonly WebApplication _application;
        private int _received;

        private Sink(WebApplication application) => _application = application;

        internal int Received => Volatile.Read(ref _received);

        internal string Uri => _application.Urls.Single();

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

    /// <summary>Reads <c>/metrics</c> as Prometheus does.</summary>
    private sealed class Scraper : IAsyncDisposable
    {
        private readonly CancellationTokenSource _stop = new();
        private readonly Task _scraping;
        private int _read;

        internal Scraper(Uri metrics) => _scraping = ScrapeAsync(metrics);

        internal int Read => Volatile.Read(ref _read);

        public async ValueTask DisposeAsync()
        {
            await _stop.CancelAsync();
            await _scraping;
            _stop.Dispose();
        }

        private async Task ScrapeAsync(Uri metrics)
        {
            using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false });
            using var timer = new PeriodicTimer(s_every);
            try
            {
                while (await timer.WaitForNextTickAsync(_stop.Token))
                {
                    string text = await client.GetStringAsync(metrics, _stop.Token);
                    _read += text.Contains("checkpoint_engine_serve_sent_bytes_total", StringComparison.Ordinal) ? 1 : 0;
                }
            }
            catch (OperationCanceledException)
            {
                // The joins are over.
            }
        }
    }
}
