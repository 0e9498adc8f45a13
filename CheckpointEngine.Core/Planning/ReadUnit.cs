namespace CheckpointEngine.Planning;

/// <summary>
/// What one request reads: a piece of a run that begins and ends at chunk borders of tensors, so that every digest can be made from the bytes
/// of one request while they are in cache. At most a chunk of 4 MiB, padding aside.
/// </summary>
/// <param name="Range">Index into <see cref="TransferPlan.Ranges"/>.</param>
/// <param name="OffsetInRange">Bytes from the run's start.</param>
/// <param name="LengthBytes">Bytes to read.</param>
/// <param name="FirstTensor">Its first tensor in <see cref="TransferPlan.Tensors"/>.</param>
/// <param name="FirstTensorOffset">Bytes of that tensor that come before this unit; a multiple of the chunk size.</param>
public readonly record struct ReadUnit(int Range, long OffsetInRange, int LengthBytes, int FirstTensor, long FirstTensorOffset);
