using System.Diagnostics;
using System.Globalization;
using System.Net;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Whole processes, and thousands of connections on each listener that say nothing, or half of something.</summary>
/// <remarks>
/// CHECKPOINT_ENGINE_FLOOD is the number for each listener, on a machine that has nothing else to do: what SECURITY.md says is then asserted as it stands there. Without it
/// fewer come, and the bounds leave room for what else goes on.
/// </remarks>
[Collection(Measures.Name)]
public sealed class FloodTests(ITestOutputHelper output)
{
    private const int UsualConnections = 1_500;
    private const int CheckpointBytes = 64 << 20;
    private const string Token = "a token that is long enough";
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
        File.WriteAllText(temp["token"], Token);
        string[] access = hasToken ? ["--token-file", temp["token"]] : [];
        await using Holder holder = await Holder.ServeAsync(temp["model"], ["--listen", "unix:" + temp["socket"], .. access]);
        using var control = new HolderControl(temp["socket"], hasToken ? Token : null);
        await using Holder idle = await Holder.ServeAsync(temp["model"], access);
        IReadOnlyList<IPEndPoint> listeners = Flood.FindListeners(holder.Engine.ProcessId);
        Assert.Equal(4, listeners.Count);       // http, handshake, data, peers

        double bestShare = 0;
        TimeSpan bestAnswer = TimeSpan.MaxValue;
        for (int attempt = 0; attempt < MostAttempts && (bestShare < leastShare || bestAnswer > s_slowestAnswer); attempt++)
        {
            (double share, AnswerTimes flooded, AnswerTimes ofIdle) = await MeasureAsync(holder, idle, control, listeners, count, access);
            bestShare = Math.Max(bestShare, share);
            TimeSpan answer = flooded.Slowest - (isFull ? TimeSpan.Zero : 2 * ofIdle.Slowest);        // a holder that nobody floods shows how long everybody waits for a core
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

    // The share of its rate that a running join keeps while the flood comes and stays, and answers of health over connections of its own.
    private async Task<(double Share, AnswerTimes Flooded, AnswerTimes Idle)> MeasureAsync(Holder holder, Holder idle, HolderControl control, IReadOnlyList<IPEndPoint> listeners, int count, string[] access)
    {
        await using Engine join = Engine.Start(["join", "--metas-url", holder.MetasUrl, "--to", "memory", "--transport", "tcp", "--repeat", "1000000", .. access]);
        await join.WaitForLineAsync(line => line.StartsWith("transfer:", StringComparison.Ordinal) || line.StartsWith("verify:", StringComparison.Ordinal));
        using var endBefore = new CancellationTokenSource(s_phase);
        long start = await control.CountSentBytesAsync();
        long started = Stopwatch.GetTimestamp();
        AnswerTimes calm = await holder.WatchHealthAsync(isStranger: true, endBefore.Token);
        double before = Rate(start, await control.CountSentBytesAsync(), Stopwatch.GetElapsedTime(started));

        using var end = new CancellationTokenSource();
        Task<AnswerTimes> probing = holder.WatchHealthAsync(isStranger: true, end.Token);
        Task<AnswerTimes> probingIdle = idle.WatchHealthAsync(isStranger: true, end.Token);
        start = await control.CountSentBytesAsync();
        started = Stopwatch.GetTimestamp();
        double during, held;
        using (Flood flood = await Flood.StartAsync(listeners, count))
        {
            output.WriteLine($"{flood.Opened} connections opened within {Stopwatch.GetElapsedTime(started).TotalSeconds:0.0} s");
            long opened = await control.CountSentBytesAsync();
            long openedAt = Stopwatch.GetTimestamp();
            await Task.Delay(s_phase);
            flood.Sweep();
            long ended = await control.CountSentBytesAsync();
            held = Rate(opened, ended, Stopwatch.GetElapsedTime(openedAt));
            during = Rate(start, ended, Stopwatch.GetElapsedTime(started));
            output.WriteLine($"{flood.Open} still open");
        }
        await end.CancelAsync();
        AnswerTimes flooded = await probing;
        AnswerTimes ofIdle = await probingIdle;
        Assert.False(join.HasExited, "the join has ended");
        output.WriteLine($"join: {before:0.00} GiB/s before; {during:0.00}, {during / before:0.00} of it, while the flood comes and stays; {held:0.00}, {held / before:0.00} of it, while it stays");
        output.WriteLine($"health, before: {calm}; during: {flooded}; of an idle holder: {ofIdle}");
        return (during / before, flooded, ofIdle);
    }

    private static double Rate(long from, long to, TimeSpan time) => (to - from) / (double)(1 << 30) / time.TotalSeconds;
}
