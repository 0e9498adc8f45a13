namespace CheckpointEngine.Http.Contracts;

/// <summary>Answer of <c>GET /v1/readyz</c>, which everybody may read.</summary>
/// <param name="Checkpoints">How many checkpoints are held.</param>
internal sealed record ReadyReply(int Checkpoints);
