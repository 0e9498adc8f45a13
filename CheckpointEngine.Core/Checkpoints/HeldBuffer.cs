namespace CheckpointEngine.Checkpoints;

/// <summary>One buffer of a <see cref="HeldCheckpoint"/>: a run of memory with tensors back to back.</summary>
/// <param name="Memory">The memory it lies in.</param>
/// <param name="StartBytes">Bytes from the memory's start to the buffer's: the data section of a mapped file, else 0.</param>
/// <param name="SizeBytes">Length in bytes; 0 when all its tensors are empty.</param>
/// <param name="FirstTensor">Index of its first tensor in <see cref="HeldCheckpoint.Tensors"/>.</param>
/// <param name="TensorCount">Number of its tensors, which follow each other in the table.</param>
public readonly record struct HeldBuffer(MemoryBuffer Memory, long StartBytes, long SizeBytes, int FirstTensor, int TensorCount)
{
    /// <summary>Address of the buffer's first byte.</summary>
    public nint Address => Memory.Address + (nint)StartBytes;
}
