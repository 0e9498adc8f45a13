using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Cli.Tests;

/// <summary>One holder and 64 joiners at once, each a process of its own.</summary>
[Collection(Measures.Name)]
public sealed class ManyJoinersTests
{
    private const int Joiners = 64;
    private const int CheckpointBytes = 64 << 20;
    private const long MostOwnBytes = 64 << 20;

    // A joiner has lanes, a conversation with the peer service, and for a moment a handshake and a request for the metas.
    private const int MostDescriptorsOfAJoiner = 6;

    // The pool's threads come and go with what the host lets it do at a time; one for each joiner is what must not be.
    private const int MostThreadsMore = 32;

    private static readonly TimeSpan s_slowestAnswer = TimeSpan.FromMilliseconds(50);

    [Fact]
    public async Task Join_64AtOnceOverTcp_AllSucceedAndTheHolderStaysSmallAndAnswers()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], CheckpointBytes);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        await using Holder idle = await Holder.ServeAsync(temp["model"]);
        (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "null", "--transport", "tcp")).Succeeded();
        Figures before = Figures.Read(holder.Engine.ProcessId, temp.Path);
        using var end = new CancellationTokenSource();
        Task<Figures> watching = WatchAsync(holder, temp.Path, end.Token);
        Task<AnswerTimes> probing = holder.WatchHealthAsync(isStranger: false, end.Token);
        Task<AnswerTimes> probingIdle = idle.WatchHealthAsync(isStranger: false, end.Token);

        Outcome[] outcomes = await Task.WhenAll(Enumerable.Range(0, Joiners).Select(
            _ => Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "null", "--transport", "tcp", "--require-verify", "--json")));
        await end.CancelAsync();
        Figures most = await watching;
        TimeSpan slowest = (await probing).Slowest;
        TimeSpan slowestOfIdle = (await probingIdle).Slowest;

        foreach (Outcome outcome in outcomes)
        {
            using JsonDocument report = JsonDocument.Parse(outcome.Succeeded().Output);
            Assert.Equal(CheckpointBytes, report.RootElement.GetProperty("bytes").GetInt64());
            Assert.True(report.RootElement.GetProperty("verified").GetBoolean());
            Assert.Equal(CheckpointBytes, report.RootElement.GetProperty("transports").GetProperty("tcp").GetInt64());
        }
        // Compiled as it runs, the command is large by itself: what counts is what the joiners add.
        Assert.InRange(most.OwnBytes - before.OwnBytes, long.MinValue, MostOwnBytes);
        Assert.InRange(most.Threads, 1, before.Threads + MostThreadsMore);
        Assert.InRange(most.Descriptors, 1, before.Descriptors + MostDescriptorsOfAJoiner * Joiners);
        // Beside 64 processes that are being compiled everybody waits for a core: a holder that nobody joins shows how long.
        Assert.InRange(slowest, TimeSpan.Zero, s_slowestAnswer + 2 * slowestOfIdle);

        Figures after = Figures.Read(holder.Engine.ProcessId, temp.Path);
        for (long start = Stopwatch.GetTimestamp(); after.Descriptors > before.Descriptors + 2 && Stopwatch.GetElapsedTime(start) < Engine.Patience;)
        {
            await Task.Yield();         // connections of processes that are gone close by themselves
            after = Figures.Read(holder.Engine.ProcessId, temp.Path);
        }
        Assert.InRange(after.Descriptors, 1, before.Descriptors + 2);
        holder.Engine.Signal(Engine.SigTerm);
        (await holder.Engine.EndAsync()).Succeeded();
    }

    [Fact]
    public async Task Serve_AsksTheKernelToBeHeardSoon()
    {
        Assert.SkipWhen(SchedulerSlice.Of(0) == 0, "this kernel does not tell the slice of a thread: Linux 6.12 does");
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], 1 << 20);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        (string Task, ulong Slice)[] threads = [.. Directory.GetDirectories($"/proc/{holder.Engine.ProcessId}/task")
            .Select(task => (task, SchedulerSlice.Of(int.Parse(Path.GetFileName(task), CultureInfo.InvariantCulture))))
            .Where(thread => Directory.Exists(thread.task))];       // one that ends meanwhile has none
        Assert.True(threads.Length > 1);
        Assert.All(threads, thread => Assert.Equal(SchedulerSlice.ShortestNanoseconds, thread.Slice));
    }

    private static async Task<Figures> WatchAsync(Holder holder, string checkpoint, CancellationToken end)
    {
        Figures most = Figures.Read(holder.Engine.ProcessId, checkpoint);
        using var timer = new PeriodicTimer(TimeSpan.FromMilliseconds(100));
        while (!end.IsCancellationRequested)
        {
            await timer.WaitForNextTickAsync(CancellationToken.None);
            Figures now = Figures.Read(holder.Engine.ProcessId, checkpoint);
            most = new Figures(Math.Max(most.OwnBytes, now.OwnBytes), Math.Max(most.Threads, now.Threads), Math.Max(most.Descriptors, now.Descriptors));
        }
        return most;
    }
}
