using System.Diagnostics;
using System.Text.Json;
using CheckpointEngine.Internal;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// One holder and 64 joiners at once, each a process of its own that reads everything over TCP into nothing, beside one joiner in the same run: the sum
/// of the rates, how even they are, what the holder needs for them, and whether it still answers others. A bare C pump with as many receiving processes
/// tells what so many are on this machine.
/// </summary>
internal static class ManyJoiners
{
    private const int Joiners = 64;
    private const int ProcessesAlone = 7;
    private const int RoundsAlone = 6;                // the first is warm-up
    private const double LargestGib = 0.5;            // 32 GiB through the loopback in a pass
    private const long PumpBlock = 4 << 20;           // as large as what a join asks for at a time
    private static readonly TimeSpan s_healthPause = TimeSpan.FromMilliseconds(10);
    private static readonly TimeSpan s_samplePause = TimeSpan.FromMilliseconds(50);

    internal static async Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string checkpoint = bench.GetCheckpoint(Math.Min(bench.Options.Gib, LargestGib));
        using var holder = new HolderProcess(bench, checkpoint, "--hold", "map");
        // Nobody joins it: the time of its answers is what any process waits for a core meanwhile.
        using var idle = new HolderProcess(bench, checkpoint, "--hold", "map");
        using var pump = new PumpServer(bench, PumpBlock, "reno");
        await JoinAsync(holder, 1, rounds: 2);        // then the holder has touched its memory and knows all digests
        HolderFigures before = HolderFigures.Read(holder.Id);

        var alone = new List<double>();
        var aloneWarm = new List<double>();
        var together = new List<double>();
        var ratios = new List<double>();
        var pumpRatios = new List<double>();
        var besidePump = new List<double>();
        var spreads = new List<double>();
        var health = new List<double>();
        var idleHealth = new List<double>();
        HolderFigures most = before;
        for (int pass = 0; pass < bench.Options.Passes; pass++)
        {
            // Turned round every other time, so that nothing always comes behind the same thing; watched alike.
            (double one, double warm) = pass % 2 == 0 ? await WatchedAsync(() => RateAloneAsync(holder)) : default;
            (Joined[] joined, double seconds) = await WatchedAsync(TogetherAsync, health, idleHealth);
            if (pass % 2 != 0)
            {
                (one, warm) = await WatchedAsync(() => RateAloneAsync(holder));
            }

            double sum = joined.Sum(join => join.Bytes) / seconds / (1L << 30);
            double spread = joined.Max(join => join.Seconds[0]) / joined.Min(join => join.Seconds[0]);
            alone.Add(one);
            aloneWarm.Add(warm);
            together.Add(sum);
            ratios.Add(sum / one);
            long bytes = joined[0].Bytes;
            double onePump = Statistics.Median([.. Enumerable.Range(0, ProcessesAlone).Select(_ => pump.TimeProcesses("reno", bytes, 1, PumpBlock))]);
            double pumpRatio = Joiners * onePump / pump.TimeProcesses("reno", bytes, Joiners, PumpBlock);
            pumpRatios.Add(pumpRatio);
            besidePump.Add(sum / one / pumpRatio);
            spreads.Add(spread);
            Console.WriteLine($"pass {pass + 1}: alone {one:0.00} ({warm:0.00} in a process that goes on) GiB/s, {Joiners} together {sum:0.00} GiB/s in {seconds:0.0} s, slowest / fastest {spread:0.00}");
        }
        await Task.Delay(s_samplePause);
        HolderFigures after = HolderFigures.Read(holder.Id);

        scoreboard.Note("one joiner alone, from start to end", $"{Statistics.Median(alone):0.00} GiB/s", Statistics.Range(alone, "0.00"));
        scoreboard.Note("one joiner in a process that goes on, its later rounds", $"{Statistics.Median(aloneWarm):0.00} GiB/s", Statistics.Range(aloneWarm, "0.00"));
        scoreboard.Note($"{Joiners} joiners, all their bytes by the time from the first start to the last end", $"{Statistics.Median(together):0.00} GiB/s", Statistics.Range(together, "0.00"));
        scoreboard.AtLeast($"{Joiners} joiners / one", Statistics.Median(ratios), 1, Statistics.Range(ratios, "0.00"));
        scoreboard.Note($"a bare C pump: {Joiners} receiving processes / one", $"{Statistics.Median(pumpRatios):0.00}", Statistics.Range(pumpRatios, "0.00"));
        scoreboard.AtLeast($"{Joiners} joiners / one, beside the pump's", Statistics.Median(besidePump), 1, Statistics.Range(besidePump, "0.00"));
        scoreboard.Below("slowest joiner's time / fastest one's", spreads.Max(), 2, "x", $"the widest pass; {Statistics.Range(spreads, "0.00")}");
        scoreboard.Below("holder's memory beyond the checkpoint", most.OwnMib, 64, "MiB", $"before {before.OwnMib:0}, after {after.OwnMib:0}; without the kernel's socket buffers");
        scoreboard.Below("holder's threads", most.Threads, before.Threads + 2 * Environment.ProcessorCount + 16, "", $"before {before.Threads}, after {after.Threads}");
        scoreboard.Below("holder's descriptors", most.Descriptors, before.Descriptors + 6 * Joiners, "", $"before {before.Descriptors}, after {after.Descriptors}");
        scoreboard.Note("slowest answer of an idle holder meanwhile", $"{idleHealth.Max():0.00} ms", Remark(idleHealth));
        scoreboard.Below("slowest answer of /v1/healthz meanwhile", health.Max(), 50, "ms", Remark(health));

        async Task<(Joined[], double)> TogetherAsync()
        {
            long start = Stopwatch.GetTimestamp();
            Joined[] joined = await JoinAsync(holder, Joiners, rounds: 1);
            return (joined, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }

        // Both holders are probed and the joined one is watched, whatever is measured: it takes a part of the cores.
        async Task<T> WatchedAsync<T>(Func<Task<T>> measure, List<double>? answers = null, List<double>? idleAnswers = null)
        {
            using var end = new CancellationTokenSource();
            Task<List<double>> probing = ProbeHealthAsync(holder, end.Token);
            Task<List<double>> probingIdle = ProbeHealthAsync(idle, end.Token);
            Task<HolderFigures> watching = WatchAsync(holder, end.Token);
            T result = await measure();
            await end.CancelAsync();
            answers?.AddRange(await probing);
            idleAnswers?.AddRange(await probingIdle);
            HolderFigures watched = await watching;
            most = answers is null ? most : most.Max(watched);
            return result;
        }

        static string Remark(List<double> answers)
        {
            answers.Sort();
            return $"{answers.Count} probes, half within {Statistics.Median(answers):0.00}, 99 % within {answers[(int)(answers.Count * 0.99)]:0.0}";
        }
    }

    // Processes one after the other, starts and ends inside the time as with many; and what the last of them reaches in memory that it has touched.
    private static async Task<(double Process, double Warm)> RateAloneAsync(HolderProcess holder)
    {
        var seconds = new List<double>();
        long bytes = 0;
        for (int i = 0; i < ProcessesAlone; i++)
        {
            long start = Stopwatch.GetTimestamp();
            bytes = (await JoinAsync(holder, 1, rounds: 1))[0].Bytes;
            seconds.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        Joined warm = (await JoinAsync(holder, 1, RoundsAlone))[0];
        return (bytes / Statistics.Median(seconds) / (1L << 30), warm.Bytes / Statistics.Median(warm.Seconds.Skip(1)) / (1L << 30));
    }

    private static async Task<Joined[]> JoinAsync(HolderProcess holder, int count, int rounds)
    {
        Process[] joiners = [.. Enumerable.Range(0, count).Select(_ => Process.Start(new ProcessStartInfo(holder.Command,
            ["join", "--metas-url", holder.MetasUrl, "--to", "null", "--transport", "tcp", "--repeat", $"{rounds}", "--json", "--require-verify"])
        { RedirectStandardOutput = true })!)];
        string[] reports = await Task.WhenAll(joiners.Select(joiner => joiner.StandardOutput.ReadToEndAsync()));
        await Task.WhenAll(joiners.Select(joiner => joiner.WaitForExitAsync()));
        int failed = joiners.Count(joiner => joiner.ExitCode != 0);
        Array.ForEach(joiners, joiner => joiner.Dispose());
        return failed == 0
            ? [.. reports.Select(Joined.Parse)]
            : throw new BenchmarkFailedException($"{failed} of {count} joiners failed; their messages stand above");
    }

    // One request at a time over one connection, from a thread of its own.
    private static Task<List<double>> ProbeHealthAsync(HolderProcess holder, CancellationToken end)
        => Task.Factory.StartNew(() => ProbeHealth(holder, end), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

    private static List<double> ProbeHealth(HolderProcess holder, CancellationToken end)
    {
        SchedulerSlice.ShortenOwn();       // or what is measured is how long this thread waits for a core once the answer is there
        using var client = new HttpClient();
        var uri = new Uri(new Uri(holder.MetasUrl), "/v1/healthz");
        client.Send(new HttpRequestMessage(HttpMethod.Get, uri), CancellationToken.None).Dispose();
        var milliseconds = new List<double>();
        do
        {
            long start = Stopwatch.GetTimestamp();
            using HttpResponseMessage answer = client.Send(new HttpRequestMessage(HttpMethod.Get, uri), CancellationToken.None);
            answer.EnsureSuccessStatusCode();
            milliseconds.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        }
        while (!end.WaitHandle.WaitOne(s_healthPause));
        return milliseconds;
    }

    private static async Task<HolderFigures> WatchAsync(HolderProcess holder, CancellationToken end)
    {
        HolderFigures most = HolderFigures.Read(holder.Id);
        while (!end.IsCancellationRequested)
        {
            await Task.Delay(s_samplePause, CancellationToken.None);
            most = most.Max(HolderFigures.Read(holder.Id));
        }
        return most;
    }

    private sealed record Joined(long Bytes, double[] Seconds)
    {
        internal static Joined Parse(string report)
        {
            using JsonDocument document = JsonDocument.Parse(report);
            JsonElement root = document.RootElement;
            return new Joined(root.GetProperty("bytes").GetInt64(), root.TryGetProperty("rounds", out JsonElement rounds)
                ? [.. rounds.EnumerateArray().Select(round => round.GetProperty("seconds").GetDouble())]
                : [root.GetProperty("seconds").GetDouble()]);
        }
    }

    /// <summary>What the holder has: memory that is not the mapped checkpoint (which lies in /dev/shm), threads, descriptors.</summary>
    private sealed record HolderFigures(double OwnMib, int Threads, int Descriptors)
    {
        internal static HolderFigures Read(int process)
        {
            Dictionary<string, long> status = File.ReadLines($"/proc/{process}/status").Select(line => line.Split(':', 2))
                .Where(words => words[0] is "RssAnon" or "RssFile" or "Threads").ToDictionary(words => words[0], words => long.Parse(words[1].Replace("kB", "").Trim(), null));
            return new HolderFigures((status["RssAnon"] + status["RssFile"]) / 1024.0, (int)status["Threads"], Directory.GetFileSystemEntries($"/proc/{process}/fd").Length);
        }

        internal HolderFigures Max(HolderFigures other)
            => new(Math.Max(OwnMib, other.OwnMib), Math.Max(Threads, other.Threads), Math.Max(Descriptors, other.Descriptors));
    }
}
