using System.Collections.Concurrent;
using System.Diagnostics;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

/// <summary>The activities of a join.</summary>
[Collection(ListensToProcess.Name)]
public sealed class TraceTests : IDisposable
{
    private readonly ConcurrentQueue<Activity> _ended = [];
    private readonly ActivityListener _listener;

    public TraceTests()
    {
        _listener = new ActivityListener
        {
            ShouldListenTo = static source => source.Name == EngineTelemetry.ActivitySourceName,
            Sample = static (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllDataAndRecorded,
            ActivityStopped = _ended.Enqueue,
        };
        ActivitySource.AddActivityListener(_listener);
    }

    public void Dispose() => _listener.Dispose();

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Join_ThatEndsWell_IsOneActivityWithAChildForEachPhase()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "traced" }, null, Cancel);

        Activity join = _ended.Single(static activity => activity.OperationName == "join");
        Assert.Equal(("traced", "ok", report.Bytes), (join.GetTagItem("checkpoint"), join.GetTagItem("outcome"), join.GetTagItem("bytes")));
        Assert.Equal(["tcp"], (string[])join.GetTagItem("planes")!);
        Assert.NotEqual(ActivityStatusCode.Error, join.Status);
        Activity[] phases = [.. _ended.Where(activity => activity.ParentSpanId == join.SpanId)];
        Assert.Equal(["plan", "allocate", "transfer", "verify", "write"], phases.Select(static phase => phase.OperationName));
        Assert.All(phases, phase => Assert.Equal(join.TraceId, phase.TraceId));
        for (int phase = 1; phase < phases.Length; phase++)
        {
            Assert.True(phases[phase].StartTimeUtc >= phases[phase - 1].StartTimeUtc + phases[phase - 1].Duration - TimeSpan.FromMilliseconds(1), "two phases at once");
        }
    }

    [Fact]
    public async Task Join_ThatFails_SaysWhyInItsPhase()
    {
        await using var owner = new FakeOwner([1000], digest: root => [.. root[..15], (byte)(root[15] ^ 1)]);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(owner.Metas, new JoinOptions { Transport = TransportChoice.Tcp }, null, Cancel));

        Activity join = _ended.Single(static activity => activity.OperationName == "join");
        Assert.Equal((ActivityStatusCode.Error, "digest_mismatch"), (join.Status, join.GetTagItem("outcome")));
        Activity last = _ended.Last(activity => activity.ParentSpanId == join.SpanId);
        Assert.Equal(ActivityStatusCode.Error, last.Status);
        Assert.Contains("differ from the owner's digest", last.StatusDescription, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_WithinAnActivity_IsItsChild_AndLeavesItCurrent()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        using var outer = new Activity("outer");
        outer.Start();
        using var client = new Metas.MetasClient();
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await joiner.JoinAsync(await client.FetchAsync($"{holder.PeerUrl}/model", Cancel), new JoinOptions(), null, Cancel);

        Assert.Same(outer, Activity.Current);
        Assert.Equal(["metas", "join"], _ended.Where(activity => activity.ParentSpanId == outer.SpanId).Select(static activity => activity.OperationName));
    }
}
