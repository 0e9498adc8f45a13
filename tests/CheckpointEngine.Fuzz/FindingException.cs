namespace CheckpointEngine.Fuzz;

/// <summary>A parser gave a value that breaks a promise of its own.</summary>
internal sealed class FindingException(string message) : Exception(message);
