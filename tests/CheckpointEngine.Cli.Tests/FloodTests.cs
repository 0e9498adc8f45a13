using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Whole processes, and thousands of connections on each listener that say nothing, or half of something.</summary>
/// <remarks>
/// CHECKPOINT_ENGINE_FLOOD is the number for each listener, on a machine that has nothing else to do: what SECURITY.md says is then asserted as it stands there. Without it
/// fewer come, and the bounds leave room for what else goes on.
/// </remarks>
public sealed class FloodTests(ITestOutputHelper output)
{
    private const int UsualConnections = 1_500;
    private const int CheckpointBytes = 64 << 20;
    private const double LeastShareOfRate = 0.8;
    private const double LeastShareBesideOthers = 0.5;

    // What others do on the machine lowers a rate and delays an answer; nothing makes them better than they are. So the best of a few counts.
    private const int MostAttempts = 4;

    private static readonly TimeSpan s_slowestAnswer = TimeSpan.FromMilliseconds(100);

    // How long a join is watched before, and the flood is held.
    private static readonly TimeSpan s_phase = TimeSpan.FromSeconds(3);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Flood_OnEachListener_HealthAnswersAndAJoinGoesOn(bool hasToken)
    {
        bool isFull = int.TryParse(Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_FLOOD"), NumberStyles.None, CultureInfo.InvariantCulture, out int count);
        count = isFull ? count : UsualConnections;
        double leastShare = isFull ? LeastShareOfRate : LeastShareBesideOthers;
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], CheckpointBytes);
        File.WriteAllText(temp["token"], "a token that is long enough");
        string[] access = hasToken ? ["--token-file", temp["token"]] : [];
        await using Holder holder = await Holder.ServeAsync(temp["model"], access);
        await using Holder idle = await Holder.ServeAsync(temp["model"], access);
        IReadOnlyList<IPEndPoint> listeners = Flood.FindListeners(holder.Engine.ProcessId);
        Assert.Equal(4, listeners.Count);       // http, handshake, data, peers

        double bestShare = 0;
        TimeSpan bestAnswer = TimeSpan.MaxValue;
        for (int attempt = 0; attempt < MostAttempts && (bestShare < leastShare || bestAnswer > s_slowestAnswer); attempt++)
        {
            (double share, TimeSpan answer, TimeSpan answerOfIdle) = await MeasureAsync(holder, idle, listeners, count, access);
            bestShare = Math.Max(bestShare, share);
            answer -= isFull ? TimeSpan.Zero : 2 * answerOfIdle;        // a holder that nobody floods shows how long everybody waits for a core
            bestAnswer = answer < bestAnswer ? answer : bestAnswer;
        }
        Assert.InRange(bestShare, leastShare, double.MaxValue);
        Assert.InRange(bestAnswer, TimeSpan.MinValue, s_slowestAnswer);

        // And who comes during the flood is served.
        using (Flood flood = await Flood.StartAsync(listeners, count))
        {
            (await Engine.RunAsync(["join", "--metas-url", holder.MetasUrl, "--to", "null", "--transport", "tcp", "--require-verify", .. access])).Succeeded();
        }
        holder.Engine.Signal(Engine.SigTerm);
        Outcome outcome = (await holder.Engine.EndAsync()).Succeeded();
        Assert.InRange(outcome.Errors.Split('\n').Count(line => line.Contains("no room", StringComparison.Ordinal)), 1, 100);
    }

    // The share of its rate that a running join keeps while the flood comes and stays, and the slowest answer of health over connections of its own.
    private async Task<(double Share, TimeSpan SlowestAnswer, TimeSpan SlowestOfIdle)> MeasureAsync(Holder holder, Holder idle, IReadOnlyList<IPEndPoint> listeners, int count, string[] access)
    {
        double round = Rounds(await JoinAsync(holder, 50, access)).Order().ElementAt(25);
        Task<Outcome> join = JoinAsync(holder, (int)(s_phase.TotalSeconds * 5 / round), access);
        await Task.Delay(s_phase);
        using var end = new CancellationTokenSource();
        Task<TimeSpan> probing = holder.WatchHealthAsync(isStranger: true, end.Token);
        Task<TimeSpan> probingIdle = idle.WatchHealthAsync(isStranger: true, end.Token);
        long began = Stopwatch.GetTimestamp();
        long opened;
        using (Flood flood = await Flood.StartAsync(listeners, count))
        {
            opened = Stopwatch.GetTimestamp();
            await Task.Delay(s_phase);
            flood.Sweep();
            output.WriteLine($"{flood.Opened} connections opened within {Stopwatch.GetElapsedTime(began, opened).TotalSeconds:0.0} s, {flood.Open} still open");
        }
        long ended = Stopwatch.GetTimestamp();
        await end.CancelAsync();
        TimeSpan slowest = await probing;
        TimeSpan slowestOfIdle = await probingIdle;
        double[] rounds = Rounds(await join);
        double over = Stopwatch.GetElapsedTime(ended).TotalSeconds;      // the last round ended just now
        double before = 0, during = 0, held = 0;
        int roundsBefore = 0, roundsDuring = 0, roundsHeld = 0;
        double flooded = Stopwatch.GetElapsedTime(began, ended).TotalSeconds;
        double heldFor = Stopwatch.GetElapsedTime(opened, ended).TotalSeconds;
        double back = 0;
        for (int i = rounds.Length - 1; i >= 0; i--)
        {
            double endedAgo = back;
            back += rounds[i];
            if (endedAgo > over + flooded)
            {
                before += rounds[i];
                roundsBefore++;
            }
            else if (endedAgo > over && back < over + flooded)
            {
                during += rounds[i];
                roundsDuring++;
                (held, roundsHeld) = back < over + heldFor ? (held + rounds[i], roundsHeld + 1) : (held, roundsHeld);
            }
        }
        Assert.True(roundsBefore > 10 && roundsDuring > 10, $"{roundsBefore} rounds before and {roundsDuring} during the flood say nothing");
        double share = roundsDuring / during / (roundsBefore / before);
        output.WriteLine($"join: {share:0.00} of its rate ({Gib(roundsBefore, before):0.0} GiB/s) in all, {roundsHeld / held / (roundsBefore / before):0.00} while the flood is held; slowest health {slowest.TotalMilliseconds:0} ms, of an idle holder {slowestOfIdle.TotalMilliseconds:0} ms");
        return (share, slowest, slowestOfIdle);
    }

    private static double Gib(int rounds, double seconds) => (double)rounds * CheckpointBytes / (1 << 30) / seconds;

    private static Task<Outcome> JoinAsync(Holder holder, int rounds, string[] access)
        => Engine.RunAsync(["join", "--metas-url", holder.MetasUrl, "--to", "memory", "--transport", "tcp", "--repeat", rounds.ToString(CultureInfo.InvariantCulture), "--json", .. access]);

    private static double[] Rounds(Outcome join)
    {
        using JsonDocument report = JsonDocument.Parse(join.Succeeded().Output);
        return [.. report.RootElement.GetProperty("rounds").EnumerateArray().Select(round => round.GetProperty("seconds").GetDouble())];
    }
}
