using System.Buffers;
using System.Diagnostics;
using System.Runtime.CompilerServices;
using CheckpointEngine.Benchmarks;
using CheckpointEngine.Http;
using CheckpointEngine.Metas;
using CheckpointEngine.Planning;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.Extensions.DependencyInjection;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// The metas of a very large checkpoint from a holder that has just got to know them to a joiner's finished plan: taken into the server, encoded,
/// sent by the real endpoint over the loopback, parsed, planned. Holder and joiner share this process, so what either allocates is counted.
/// </summary>
internal static class KimiMetas
{
    private const int WarmUp = 12;
    private const int Rounds = 21;
    private const int CountedRounds = 7;
    private const double Megabyte = 1e6;
    private const double MostMilliseconds = 100;     // JSON; pickle may have twice both
    private const double MostMegabytes = 64;
    private const string Name = "kimi-k2";

    internal static async Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        long before = GC.GetTotalMemory(forceFullCollection: true);
        CheckpointMetas source = KimiK2.CreateMetas();
        double retained = (GC.GetTotalMemory(forceFullCollection: true) - before) / Megabyte;
        scoreboard.Below("model of the metas, retained", retained, 16, "MB", $"{source.Tensors.Count:N0} tensors, {source.Owners.Length} owners");

        await using var server = new ParameterServer(new ParameterServerOptions());
        await server.StartAsync();
        await using WebApplication application = await StartHttpAsync(server);
        string url = $"{application.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.First()}/v1/checkpoints/{Name}/metas";

        await MeasureAsync(server, source, retained, url, MetasFormat.Json, MostMilliseconds, MostMegabytes, scoreboard);
        await MeasureAsync(server, source, retained, url + "?pickle", MetasFormat.Pickle, 2 * MostMilliseconds, 2 * MostMegabytes, scoreboard);
        foreach (MetasFormat format in new[] { MetasFormat.Json, MetasFormat.Pickle })
        {
            MeasureParts(source, format, scoreboard);
        }
        GC.KeepAlive(source);
    }

    private static async Task MeasureAsync(ParameterServer server, CheckpointMetas source, double retained, string url, MetasFormat format,
        double limitMilliseconds, double limitMegabytes, Scoreboard scoreboard)
    {
        using var client = new MetasClient();
        var total = new List<double>();
        var fetch = new List<double>();
        var plan = new List<double>();
        var allocated = new List<double>();
        var native = new List<double>();
        for (int round = 0; round < WarmUp + Rounds + CountedRounds; round++)
        {
            GC.Collect();
            bool counts = round >= WarmUp + Rounds;          // counting native memory takes time, so those rounds are not timed
            using NativeHeapPeak? peak = counts ? new NativeHeapPeak() : null;
            (double fetched, double planned, long allocatedBytes) = await RunRoundAsync(server, source, client, url);
            if (counts)
            {
                allocated.Add(allocatedBytes / Megabyte + retained);
                native.Add(peak!.Stop() / Megabyte);
            }
            else if (round >= WarmUp)
            {
                total.Add(planned);
                fetch.Add(fetched);
                plan.Add(planned - fetched);
            }
        }
        string name = format == MetasFormat.Json ? "JSON" : "pickle";
        double milliseconds = Statistics.Median(total);
        double megabytes = Statistics.Median(allocated);
        scoreboard.Below($"{name}: serve, fetch, parse and plan", milliseconds, limitMilliseconds, "ms",
            $"median of {Rounds}, {Statistics.Range(total, "0.0")}; serve to parse {Statistics.Median(fetch):0.0}, plan {Statistics.Median(plan):0.0}");
        scoreboard.Below($"{name}: allocated by both ends, model retained by the holder included", megabytes,
            limitMegabytes, "MB", $"managed; {Statistics.Range(allocated, "0.0")}");
        scoreboard.Below($"{name}: the same with native columns at their peak", megabytes + Statistics.Median(native),
            limitMegabytes, "MB",
            $"malloc(3) at its peak {Statistics.Median(native):0.0} MB, room that was never touched included");
    }

    private static async Task<(double FetchedMilliseconds, double PlannedMilliseconds, long AllocatedBytes)> RunRoundAsync(
        ParameterServer server, CheckpointMetas source, MetasClient client, string url)
    {
        long allocatedBefore = GC.GetTotalAllocatedBytes(precise: true);
        long start = Stopwatch.GetTimestamp();
        server.LoadMetas(Name, source);                      // a new generation: nothing of it is encoded yet
        CheckpointMetas metas = await client.FetchAsync(url);
        double fetched = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        TransferPlan plan = TransferPlanner.Plan(metas, TensorFilter.All);
        double planned = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        long allocated = GC.GetTotalAllocatedBytes(precise: true) - allocatedBefore;
        return plan.Tensors.Count == source.Tensors.Count
            ? (fetched, planned, allocated)
            : throw new BenchmarkFailedException($"the plan has {plan.Tensors.Count} tensors, the metas {source.Tensors.Count}");
    }


    // Where the time goes, without HTTP.
    private static void MeasureParts(CheckpointMetas source, MetasFormat format, Scoreboard scoreboard)
    {
        var write = new List<double>();
        var read = new List<double>();
        var output = new ArrayBufferWriter<byte>(64 << 20);
        for (int round = 0; round < WarmUp + Rounds; round++)
        {
            output.ResetWrittenCount();
            long start = Stopwatch.GetTimestamp();
            MetasDocument.Write(source, format, output);
            double written = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
            CheckpointMetas metas = MetasDocument.Read(output.WrittenSpan);
            double done = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
            if (round >= WarmUp && metas.Tensors.Count == source.Tensors.Count)
            {
                write.Add(written);
                read.Add(done - written);
            }
        }
        scoreboard.Note($"{(format == MetasFormat.Json ? "JSON" : "pickle")} alone: encode, parse", $"{Statistics.Median(write):0.0}, {Statistics.Median(read):0.0} ms",
            $"{output.WrittenCount / Megabyte:0.0} MB");
        scoreboard.Below($"{(format == MetasFormat.Json ? "JSON" : "pickle")}: model in the joiner, retained", MeasureRetained(output.WrittenSpan), 16, "MB");
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static double MeasureRetained(ReadOnlySpan<byte> document)
    {
        long before = GC.GetTotalMemory(forceFullCollection: true);
        CheckpointMetas metas = MetasDocument.Read(document);
        long with = GC.GetTotalMemory(forceFullCollection: true);
        GC.KeepAlive(metas);
        return (with - before) / Megabyte;
    }

    // The endpoints in an application of ours, since MetasClient prefers JSON: "?pickle" makes it ask as upstream's Python does.
    private static async Task<WebApplication> StartHttpAsync(ParameterServer server)
    {
        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
        builder.Services.AddRoutingCore();
        builder.WebHost.UseKestrelCore();
        builder.WebHost.UseUrls("http://127.0.0.1:0");
        WebApplication application = builder.Build();
        application.Use((context, next) =>
        {
            if (context.Request.Query.ContainsKey("pickle"))
            {
                context.Request.Headers.Accept = "application/octet-stream";
            }
            return next(context);
        });
        application.UseRouting();
        application.MapCheckpointEngine(server);
        await application.StartAsync();
        return application;
    }
}
