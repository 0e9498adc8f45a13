using System.Runtime.InteropServices;

namespace CheckpointEngine.Internal;

/// <summary>A counter that many threads add to; alone on its cache lines (128 bytes: two are fetched together), so that nothing else slows with it.</summary>
internal sealed class PaddedCounter
{
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    private struct Padded
    {
        [FieldOffset(128)]
        internal long Value;
    }

    private Padded _padded;

    internal long Value => Volatile.Read(ref _padded.Value);

    internal void Add(long amount) => Interlocked.Add(ref _padded.Value, amount);
}
