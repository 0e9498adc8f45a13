namespace CheckpointEngine;

/// <summary>The one exception of the engine: what failed, on what, why, and what to try.</summary>
public sealed class CheckpointEngineException : Exception
{
    /// <summary>Makes an exception of the kind <paramref name="error"/>.</summary>
    /// <param name="error">The kind of failure.</param>
    /// <param name="message">Operation, subject with sizes, reason; then what to try, where something helps.</param>
    /// <param name="nativeCode">The errno behind it, 0 when there is none.</param>
    /// <param name="innerException">The cause, if there is one.</param>
    public CheckpointEngineException(CheckpointError error, string message, int nativeCode = 0, Exception? innerException = null)
        : base(message, innerException)
    {
        Error = error;
        NativeCode = nativeCode;
    }

    /// <summary>The kind of failure.</summary>
    public CheckpointError Error { get; }

    /// <summary>The errno behind the failure, 0 when there is none.</summary>
    public int NativeCode { get; }
}
