using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace CheckpointEngine.Checkpoints;

/// <summary>Copies more than the caches hold: past them, so that a line of the copy is not read before it is written.</summary>
/// <remarks>memcpy(3) of glibc does the same for one call of many megabytes; copies of checkpoints come in pieces of 4. Allocates nothing.</remarks>
internal static unsafe class StreamingCopy
{
    // Below, the copy is small enough to be wanted in the cache by who asked for it.
    private const long LeastBytes = 64 << 10;

    private const int VectorBytes = 32;
    private const int LineBytes = 64;
    private const int PrefetchBytes = 1024;

    /// <summary>Copies; the two have no byte in common.</summary>
    internal static void Copy(byte* source, byte* destination, long lengthBytes)
    {
        if (!Avx.IsSupported || lengthBytes < LeastBytes)
        {
            Buffer.MemoryCopy(source, destination, lengthBytes, lengthBytes);
            return;
        }
        long head = -(long)destination & (VectorBytes - 1);      // stores past the cache want aligned addresses
        Unsafe.CopyBlockUnaligned(destination, source, (uint)head);
        long lines = (lengthBytes - head) / LineBytes;
        byte* from = source + head;
        byte* to = destination + head;
        for (byte* end = from + lines * LineBytes; from != end; from += LineBytes, to += LineBytes)
        {
            Sse.Prefetch0(from + PrefetchBytes);
            Vector256<byte> low = Vector256.Load(from);
            Vector256<byte> high = Vector256.Load(from + VectorBytes);
            low.StoreAlignedNonTemporal(to);
            high.StoreAlignedNonTemporal(to + VectorBytes);
        }
        Sse.StoreFence();
        long copied = head + lines * LineBytes;
        Buffer.MemoryCopy(source + copied, destination + copied, lengthBytes - copied, lengthBytes - copied);
    }
}
