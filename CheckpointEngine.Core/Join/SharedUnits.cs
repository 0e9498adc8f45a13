using CheckpointEngine.Checkpoints;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>The memory of a destination that others may read units out of.</summary>
/// <param name="Buffers">The memory.</param>
/// <param name="IsOwn">Whether it is this one's to dispose, and not the destination's.</param>
/// <param name="PlaceOf">Where a unit lies in one piece; 0 for nowhere.</param>
internal sealed record SharedUnits(IReadOnlyList<MemoryBuffer> Buffers, bool IsOwn, Func<ReadUnit, ulong> PlaceOf) : IDisposable
{
    public void Dispose()
    {
        foreach (MemoryBuffer buffer in IsOwn ? Buffers : [])
        {
            buffer.Dispose();
        }
    }
}
