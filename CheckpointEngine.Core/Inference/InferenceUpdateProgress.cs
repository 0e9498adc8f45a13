namespace CheckpointEngine.Inference;

/// <summary>How far an update is; a consistent-enough snapshot for a progress bar.</summary>
/// <param name="BytesDone">Bytes that every worker has loaded, or that are written to files.</param>
/// <param name="BytesTotal">Bytes of the checkpoint.</param>
/// <param name="Phase">The phase, one word: health, write, connect, load, finish.</param>
/// <param name="Note">What a phase waits for; null when there is nothing to say.</param>
public readonly record struct InferenceUpdateProgress(long BytesDone, long BytesTotal, string Phase, string? Note = null);
