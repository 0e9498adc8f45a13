using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>One holder, and joins without pause, each a process: whatever they leave behind adds up. CHECKPOINT_ENGINE_SOAK_SECONDS says for how long (20).</summary>
public sealed class SoakTests(ITestOutputHelper output)
{
    private const int Bytes = 16 << 20;
    private const int JoinsBetweenVersions = 20;
    private const int LeastJoins = 12;

    // Less than one version, which is in the holder's own memory. The heap breathes, and a command that is compiled as it runs is still being compiled.
    private const long MostBytesMore = 12 << 20;

    // The pool's threads come and go.
    private const int MostThreadsMore = 3;

    private static readonly TimeSpan s_length = TimeSpan.FromSeconds(
        int.TryParse(Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_SOAK_SECONDS"), NumberStyles.None, CultureInfo.InvariantCulture, out int seconds) ? seconds : 20);

    // Over TCP, mapped, and copied out of the holder's memory.
    private static readonly string[][] s_ways = [["--transport", "tcp", "--to", "null"], ["--to", "memory"], ["--to", "memory", "--copy"]];

    [Fact]
    public async Task Joins_WithoutPause_TheHolderStaysAsItIs()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        await using Holder holder = await Holder.StartAsync("serve", "--checkpoint", "m=" + temp["model"], "--hold", "anon", "--listen", "http://127.0.0.1:0", "--listen", "unix:" + temp["socket"], "--allow-path", temp.Path, "--json");
        using var control = new HolderControl(temp["socket"]);
        var samples = new List<(Figures Figures, int Leases)>();
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < s_length || samples.Count < LeastJoins)
        {
            Outcome outcome = (await Engine.RunAsync(["join", "--metas-url", holder.MetasUrl, "--require-verify", "--json", .. s_ways[samples.Count % s_ways.Length]])).Succeeded();
            using JsonDocument report = JsonDocument.Parse(outcome.Output);
            Assert.True(report.RootElement.GetProperty("verified").GetBoolean());
            samples.Add((Figures.Read(holder.Engine.ProcessId, temp.Path), await control.CountLeasesAsync()));
            if (samples.Count % JoinsBetweenVersions == 0)
            {
                await control.ReplaceAsync(temp["model"]);
            }
        }
        (Figures Figures, int Leases)[] quarters = [.. samples.Chunk((samples.Count + 3) / 4).Select(Median)];
        for (int quarter = 0; quarter < quarters.Length; quarter++)
        {
            output.WriteLine($"quarter {quarter + 1}: {quarters[quarter].Figures}, {quarters[quarter].Leases} leases");
        }
        output.WriteLine($"{samples.Count} joins in {Stopwatch.GetElapsedTime(start).TotalSeconds:0} s");

        (Figures early, int earlyLeases) = quarters[1];
        (Figures late, int lateLeases) = quarters[3];
        Assert.InRange(late.OwnBytes, 1, early.OwnBytes + MostBytesMore);
        Assert.InRange(late.Threads, 1, early.Threads + MostThreadsMore);
        Assert.InRange(late.Descriptors, 1, early.Descriptors);
        Assert.InRange(lateLeases, 0, earlyLeases);
        holder.Engine.Signal(Engine.SigTerm);
        (await holder.Engine.EndAsync()).Succeeded();
    }

    private static (Figures Figures, int Leases) Median((Figures Figures, int Leases)[] samples)
    {
        int middle = samples.Length / 2;
        return (new Figures(Of(sample => sample.Figures.OwnBytes), (int)Of(sample => sample.Figures.Threads), (int)Of(sample => sample.Figures.Descriptors)), (int)Of(sample => sample.Leases));

        long Of(Func<(Figures Figures, int Leases), long> figure) => samples.Select(figure).Order().ElementAt(middle);
    }
}
