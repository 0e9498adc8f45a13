namespace CheckpointEngine.Checkpoints;

/// <summary>How far a checkpoint is on its way into memory.</summary>
/// <param name="BytesDone">Bytes of tensor data that are in place.</param>
/// <param name="BytesTotal">Bytes of tensor data of the whole checkpoint.</param>
public readonly record struct LoadProgress(long BytesDone, long BytesTotal);
