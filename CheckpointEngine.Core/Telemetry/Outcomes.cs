using System.Diagnostics;

namespace CheckpointEngine.Telemetry;

/// <summary>How joins and updates end, in the words of metrics and traces.</summary>
internal static class Outcomes
{
    internal const string Ok = "ok";
    internal const string Cancelled = "cancelled";

    /// <summary>The word for a failure: of a <see cref="CheckpointEngineException"/> its kind, <c>digest_mismatch</c> and so on.</summary>
    internal static string Of(Exception failure) => failure switch
    {
        OperationCanceledException => Cancelled,
        CheckpointEngineException engine => Of(engine.Error),
        _ => "failed",
    };

    /// <summary>The word for a kind of error.</summary>
    internal static string Of(CheckpointError error) => error switch
    {
        CheckpointError.InvalidData => "invalid_data",
        CheckpointError.NotFound => "not_found",
        CheckpointError.AlreadyExists => "already_exists",
        CheckpointError.Unreachable => "unreachable",
        CheckpointError.Timeout => "timeout",
        CheckpointError.Refused => "refused",
        CheckpointError.ProtocolViolation => "protocol_violation",
        CheckpointError.DigestMismatch => "digest_mismatch",
        CheckpointError.OutOfMemory => "out_of_memory",
        CheckpointError.Io => "io",
        CheckpointError.NotSupported => "not_supported",
        CheckpointError.Native => "native",
        CheckpointError.WrongShape => "wrong_shape",
        CheckpointError.Busy => "busy",
        CheckpointError.Superseded => "superseded",
        _ => "failed",
    };

    /// <summary>Ends an activity as failed; a cancellation is no failure of anybody.</summary>
    internal static void Fail(Activity? activity, Exception failure)
    {
        if (activity is null)
        {
            return;
        }
        activity.SetTag(EngineMetrics.Outcome, Of(failure));
        if (failure is not OperationCanceledException)
        {
            activity.SetStatus(ActivityStatusCode.Error, failure.Message);
        }
    }
}
