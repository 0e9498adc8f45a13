namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>A benchmark could not be run to its end; the message says what to do about it.</summary>
internal sealed class BenchmarkFailedException(string message) : Exception(message);
