using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Join;

/// <summary>An earlier version of what is joined, kept as it is until it is disposed of.</summary>
internal sealed class EarlierVersion : IDisposable
{
    private UseGate? _uses;

    /// <param name="checkpoint">The earlier version.</param>
    /// <param name="uses">Left by Dispose.</param>
    internal EarlierVersion(HeldCheckpoint checkpoint, UseGate uses)
    {
        Checkpoint = checkpoint;
        _uses = uses;
    }

    internal HeldCheckpoint Checkpoint { get; }

    public void Dispose() => Interlocked.Exchange(ref _uses, null)?.Leave();
}
