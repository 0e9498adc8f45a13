using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Inference;

/// <summary>What an update reads: tensors in this process's memory.</summary>
/// <param name="name">The checkpoint.</param>
/// <param name="tensors">Its tensors.</param>
/// <param name="addressOf">Where each one's first byte is.</param>
/// <param name="readiness">When they may be read.</param>
internal sealed class UpdateSource(string name, TensorTable tensors, Func<int, nint> addressOf, IUpdateReadiness readiness)
{
    internal string Name { get; } = name;

    /// <summary>Bytes of all tensors.</summary>
    internal long DataBytes { get; } = Enumerable.Range(0, tensors.Count).Sum(tensors.GetByteLength);

    internal TensorTable Tensors { get; } = tensors;

    internal Func<int, nint> AddressOf { get; } = addressOf;

    internal IUpdateReadiness Readiness { get; } = readiness;
}
