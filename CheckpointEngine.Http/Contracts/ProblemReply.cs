namespace CheckpointEngine.Http.Contracts;

/// <summary>What an error is told as: <c>application/problem+json</c>, RFC 9457.</summary>
/// <param name="Title">The status in words.</param>
/// <param name="Status">The status.</param>
/// <param name="Detail">What failed, on what, why, and what to try.</param>
/// <param name="Checkpoints">Only where a name is needed and was not given: the names there are.</param>
internal sealed record ProblemReply(string Title, int Status, string Detail, IReadOnlyList<string>? Checkpoints);
