using System.Diagnostics;

namespace CheckpointEngine.Telemetry;

/// <summary>One join as others see it: an activity with a child for each phase, what it counts when it has ended, and how far it is.</summary>
/// <remarks>Any number of threads look; the join's own flow reports and ends it.</remarks>
internal sealed class JoinObservation : IProgress<JoinProgress>, IDisposable
{
    private readonly IProgress<JoinProgress>? _told;
    private readonly Action<JoinObservation> _ended;
    private readonly Activity? _activity;
    private readonly long _start = Stopwatch.GetTimestamp();
    private readonly Lock _lock = new();
    private JoinProgress _latest;
    private Activity? _phase;

    /// <param name="checkpoint">Its local name.</param>
    /// <param name="told">Who else is told of its progress.</param>
    /// <param name="ended">Called at its end.</param>
    internal JoinObservation(string checkpoint, IProgress<JoinProgress>? told, Action<JoinObservation> ended)
    {
        Checkpoint = checkpoint;
        _told = told;
        _ended = ended;
        _activity = EngineTelemetry.Start("join");
        _activity?.SetTag("checkpoint", checkpoint);
    }

    internal string Checkpoint { get; }

    /// <summary>When it began.</summary>
    internal DateTimeOffset Started { get; } = DateTimeOffset.UtcNow;

    /// <summary>How far it is.</summary>
    internal JoinProgress Latest
    {
        get
        {
            lock (_lock)
            {
                return _latest;
            }
        }
    }

    public void Report(JoinProgress value)
    {
        bool isNew;
        lock (_lock)
        {
            isNew = value.Phase != _latest.Phase;
            _latest = value;
        }
        if (EngineTelemetry.IsSupported && isNew && _activity is not null)
        {
            _phase?.Stop();
            _phase = EngineTelemetry.Start(value.Phase, ActivityKind.Internal, _activity.Context);
        }
        _told?.Report(value);
    }

    /// <summary>Counts a join that ended well.</summary>
    internal void Completed(JoinReport report)
    {
        if (!EngineTelemetry.IsSupported)
        {
            return;
        }
        Count(Outcomes.Ok);
        EngineMetrics.JoinAttached.Add(report.AttachedBytes);
        EngineMetrics.JoinReused.Add(report.ReusedBytes);
        EngineMetrics.JoinRetried.Add(report.RetriedBytes);
        if (EngineMetrics.JoinPhase.Enabled)
        {
            foreach ((string phase, double seconds) in (ReadOnlySpan<(string, double)>)
                [("plan", report.Phases.Plan), ("allocate", report.Phases.Allocate), ("transfer", report.Phases.Transfer), ("verify", report.Phases.Verify), ("write", report.Phases.Write)])
            {
                EngineMetrics.JoinPhase.Record(seconds, new KeyValuePair<string, object?>("phase", phase));
            }
        }
        if (_activity is not null)
        {
            _activity.SetTag(EngineMetrics.Outcome, Outcomes.Ok).SetTag("bytes", report.Bytes).SetTag("tensors", report.Tensors).SetTag("verified", report.Verified)
                .SetTag("planes", report.Transports.Keys.Order(StringComparer.Ordinal).ToArray());
        }
    }

    /// <summary>Counts a join that failed or was cancelled.</summary>
    internal void Failed(Exception failure)
    {
        if (!EngineTelemetry.IsSupported)
        {
            return;
        }
        Count(Outcomes.Of(failure));
        Outcomes.Fail(_phase, failure);
        Outcomes.Fail(_activity, failure);
    }

    public void Dispose()
    {
        _ended(this);
        _phase?.Dispose();
        _activity?.Dispose();
    }

    private void Count(string outcome)
    {
        var tag = new KeyValuePair<string, object?>(EngineMetrics.Outcome, outcome);
        EngineMetrics.Joins.Add(1, tag);
        EngineMetrics.JoinDuration.Record(Stopwatch.GetElapsedTime(_start).TotalSeconds, tag);
    }
}
