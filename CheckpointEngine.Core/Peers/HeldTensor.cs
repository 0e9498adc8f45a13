using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Peers;

/// <summary>A tensor of a held checkpoint while its digests are being read: counts as a read of its range, so its memory stays.</summary>
internal readonly struct HeldTensor(HeldCheckpoint checkpoint, CheckpointDigests? digests, long generation, int tensor, RegisteredRange range) : IDisposable
{
    internal HeldCheckpoint Checkpoint => checkpoint;

    internal CheckpointDigests? Digests => digests;

    /// <summary>The generation of the checkpoint that the digests are of; not 0.</summary>
    internal long Generation => generation;

    internal int Tensor => tensor;

    public void Dispose() => range.EndRead();
}
