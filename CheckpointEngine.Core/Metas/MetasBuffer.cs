namespace CheckpointEngine.Metas;

/// <summary>One memory buffer of an owner: a contiguous region of its address space with tensors back to back.</summary>
/// <param name="Address">Virtual address in the owner's process.</param>
/// <param name="SizeBytes">Length in bytes.</param>
/// <param name="FirstTensor">Index of its first tensor in <see cref="CheckpointMetas.Tensors"/>.</param>
/// <param name="TensorCount">Number of its tensors, which follow each other in the table.</param>
public readonly record struct MetasBuffer(ulong Address, long SizeBytes, int FirstTensor, int TensorCount);
