using CheckpointEngine.Transfer;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Peers;

/// <summary>Memory that a peer of this host may reach, while the answer is on its way: counts as a read of its range, so its descriptor stays.</summary>
internal readonly struct HeldMemory(MemoryAnswer answer, SafeFileHandle? file, RegisteredRange range) : IDisposable
{
    internal MemoryAnswer Answer => answer;

    /// <summary>The descriptor to pass; null without one.</summary>
    internal SafeFileHandle? File => file;

    public void Dispose() => range.EndRead();
}
