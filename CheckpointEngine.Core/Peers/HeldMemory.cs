using CheckpointEngine.Transfer;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Peers;

/// <summary>
/// Memory that a peer of this host may reach: counts as a read of its range while the answer is on its way, so that its descriptor stays, or while the
/// conversation lasts, if the peer reads it out of this process.
/// </summary>
internal readonly struct HeldMemory(MemoryAnswer answer, SafeFileHandle? file, RegisteredRange range, (string Checkpoint, long Generation, long Bytes)? held = null) : IDisposable
{
    internal MemoryAnswer Answer => answer;

    /// <summary>The descriptor to pass; null without one.</summary>
    internal SafeFileHandle? File => file;

    internal RegisteredRange Range => range;

    /// <summary>What it is of: the checkpoint, its generation and its bytes; null when that is not known.</summary>
    internal (string Checkpoint, long Generation, long Bytes)? Held => held;

    public void Dispose() => range.EndRead();
}
