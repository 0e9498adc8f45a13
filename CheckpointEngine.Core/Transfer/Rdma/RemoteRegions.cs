using CheckpointEngine.Internal;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>An owner's registered regions with their remote keys, looked up for every work request.</summary>
/// <remarks>Immutable; any number of threads. A look-up allocates nothing. Of regions that overlap, the one that starts last is asked alone.</remarks>
internal sealed class RemoteRegions
{
    private readonly Region[] _regions;       // by rising address

    private sealed class Region(ulong address, ulong lengthBytes, uint[] keys)
    {
        internal ulong Address { get; } = address;

        internal ulong LengthBytes { get; } = lengthBytes;

        internal uint[] Keys { get; } = keys;
    }

    /// <param name="owner">Whose they are, for messages.</param>
    /// <param name="buffers">As its descriptor has them, in any order; each with a key for every device.</param>
    /// <param name="devices">Where each device's key stands; null: in their order.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: a region ends beyond the address space.</exception>
    internal RemoteRegions(EndpointName owner, SegmentBuffer[] buffers, int[]? devices = null)
    {
        _regions = Array.ConvertAll(buffers, buffer => new Region(buffer.Address, buffer.LengthBytes,
            devices is null ? buffer.RemoteKeys : Array.ConvertAll(devices, device => buffer.RemoteKeys[device])));
        Array.Sort(_regions, static (a, b) => a.Address.CompareTo(b.Address));
        for (int i = 0; i < _regions.Length; i++)
        {
            if (_regions[i].LengthBytes > ulong.MaxValue - _regions[i].Address)
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"read from {owner} over RDMA: a buffer at 0x{_regions[i].Address:x} is longer than memory");
            }
        }
    }

    /// <summary>Whether all of that is registered, in one region or in several that adjoin.</summary>
    internal bool Covers(ulong address, ulong lengthBytes)
    {
        while (lengthBytes != 0)
        {
            if (!TryFindKey(address, 0, out _, out ulong end))
            {
                return false;
            }
            ulong here = Math.Min(lengthBytes, end - address);
            address += here;
            lengthBytes -= here;
        }
        return true;
    }

    /// <summary>The remote key for a byte with one of the owner's devices, and the address it no longer holds for.</summary>
    internal bool TryFindKey(ulong address, int device, out uint key, out ulong end)
    {
        int low = 0;
        int high = _regions.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_regions[middle].Address <= address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }
        if (low != 0 && address - _regions[low - 1].Address < _regions[low - 1].LengthBytes)
        {
            key = _regions[low - 1].Keys[device];
            end = _regions[low - 1].Address + _regions[low - 1].LengthBytes;
            return true;
        }
        key = 0;
        end = 0;
        return false;
    }
}
