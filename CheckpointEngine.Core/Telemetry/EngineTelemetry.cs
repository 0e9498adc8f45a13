using System.Diagnostics;
using System.Diagnostics.CodeAnalysis;
using System.Diagnostics.Metrics;

namespace CheckpointEngine.Telemetry;

/// <summary>
/// What the process tells of itself to whoever listens: metrics of one <see cref="System.Diagnostics.Metrics.Meter"/>, traces of one <see cref="ActivitySource"/>. docs/operations.md says
/// what each of them means.
/// </summary>
/// <remarks>While nobody listens, an instrument is a comparison and a trace is null.</remarks>
public static class EngineTelemetry
{
    /// <summary>The meter's name, for <c>AddMeter</c> and its like.</summary>
    public const string MeterName = "CheckpointEngine";

    /// <summary>The activity source's name, for <c>AddSource</c> and its like.</summary>
    public const string ActivitySourceName = "CheckpointEngine";

    /// <summary>Whether this build can tell anything: the C library, in which nobody could listen, leaves it out.</summary>
    [FeatureSwitchDefinition("CheckpointEngine.Telemetry.IsSupported")]
    internal static bool IsSupported { get; } = !AppContext.TryGetSwitch("CheckpointEngine.Telemetry.IsSupported", out bool isSupported) || isSupported;

    /// <summary>Begins an activity; null when nobody listens.</summary>
    internal static Activity? Start(string name, ActivityKind kind = ActivityKind.Client, ActivityContext parent = default)
        => IsSupported ? Source.StartActivity(name, kind, parent) : null;

    // Without a version: it would be a label of every series, and an upgrade would make all of them new.
    internal static Meter Meter { get; } = new(MeterName);

    internal static ActivitySource Source { get; } = new(ActivitySourceName, EngineVersion.Text);
}
