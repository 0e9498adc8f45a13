using System.Buffers.Text;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Internal;

/// <summary>Where the pages of a copied checkpoint come to lie on a host with several NUMA nodes.</summary>
/// <remarks>
/// Spread over all nodes that the process may use: readers, devices and copying threads are on any of them, so every buffer is served by the
/// bandwidth of all instead of by that of the node whose thread happened to touch it. Who has chosen for the process (numactl) is not overruled.
/// </remarks>
internal static unsafe class NumaPlacement
{
    // The kernel's own bound is CONFIG_NODES_SHIFT, at most 1,024.
    private const int MaxNodes = 1024;

    /// <summary>Spreads memory that was not touched yet, where there is more than one node. A refusal is no error: memory is then placed by first touch.</summary>
    /// <returns>Whether it was spread.</returns>
    internal static bool Spread(nint address, long lengthBytes)
    {
        Span<ulong> nodes = stackalloc ulong[MaxNodes / 64];
        int mode;
        return lengthBytes != 0 && ParseNodes(ReadAllowed(), nodes) > 1 && Libc.get_mempolicy(&mode) == 0 && mode == Libc.MPOL_DEFAULT
            && Spread(address, lengthBytes, nodes);
    }

    internal static bool Spread(nint address, long lengthBytes, ReadOnlySpan<ulong> nodes)
    {
        fixed (ulong* mask = nodes)
        {
            return Libc.mbind((void*)address, (nuint)lengthBytes, Libc.MPOL_INTERLEAVE, mask, (nuint)nodes.Length * 64) == 0;
        }
    }

    /// <summary>The node that memory lies on, by some of its pages, which are there; -1 when they lie on several, or the kernel does not say.</summary>
    internal static int NodeOf(nint address, long lengthBytes)
    {
        const int Samples = 16;
        if (NumaDistances.Host.Nodes <= 1)
        {
            return 0;
        }
        int found = -1;
        for (int sample = 0; sample < Samples && lengthBytes > 0; sample++)
        {
            int node;
            if (Libc.get_node_of(&node, (void*)(address + (nint)((lengthBytes - 1) / Samples * sample))) != 0 || (found >= 0 && node != found))
            {
                return -1;
            }
            found = node;
        }
        return found;
    }

    /// <summary>Reads a list of nodes as the kernel writes it: <c>0-1,4</c>.</summary>
    /// <param name="text">The list; what follows it is left alone.</param>
    /// <param name="nodes">Receives a bit for each; numbers beyond are left out.</param>
    /// <returns>How many there are.</returns>
    internal static int ParseNodes(ReadOnlySpan<byte> text, Span<ulong> nodes)
    {
        int count = 0;
        while (Utf8Parser.TryParse(text, out uint first, out int used))
        {
            text = text[used..];
            uint last = first;
            if (text.StartsWith("-"u8) && Utf8Parser.TryParse(text[1..], out uint end, out used))
            {
                last = end;
                text = text[(1 + used)..];
            }
            for (uint node = first; node <= last && node < nodes.Length * 64; node++)
            {
                ulong bit = 1ul << (int)(node % 64);
                count += (nodes[(int)(node / 64)] & bit) == 0 ? 1 : 0;
                nodes[(int)(node / 64)] |= bit;
            }
            if (!text.StartsWith(","u8))
            {
                break;
            }
            text = text[1..];
        }
        return count;
    }

    private static ReadOnlySpan<byte> ReadAllowed() => HostMemory.ProcField("/proc/thread-self/status", "Mems_allowed_list:"u8);
}
