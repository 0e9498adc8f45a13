namespace CheckpointEngine.Http.Replies;

/// <summary>Ends a request with a status and a sentence.</summary>
internal sealed class HttpProblemException(int status, string detail, Exception? cause = null) : Exception(detail, cause)
{
    internal int Status { get; } = status;

    /// <summary>Names to tell beside the sentence.</summary>
    internal IReadOnlyList<string>? Checkpoints { get; init; }
}
