using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Join;

/// <summary>An earlier version of what is joined, kept as it is until it is disposed of.</summary>
internal sealed class EarlierVersion : IDisposable
{
    private readonly HeldCheckpoint _checkpoint;
    private UseGate? _uses;

    /// <param name="checkpoint">The earlier version.</param>
    /// <param name="uses">Left by Dispose.</param>
    internal EarlierVersion(HeldCheckpoint checkpoint, UseGate uses)
    {
        _checkpoint = checkpoint;
        _uses = uses;
    }

    /// <summary>The earlier version; null when it was disposed of, for it may have been freed since.</summary>
    internal HeldCheckpoint? Checkpoint => Volatile.Read(ref _uses) is null ? null : _checkpoint;

    public void Dispose() => Interlocked.Exchange(ref _uses, null)?.Leave();
}
