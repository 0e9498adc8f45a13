using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>The memory that a join receives into, registered with every device ahead of the reads.</summary>
/// <remarks><see cref="Add"/> from any thread; look-ups take no lock. Disposed when no lane is left, and before the memory is.</remarks>
internal sealed class RdmaLocalMemory : IDisposable
{
    private readonly Lock _lock = new();
    private readonly RdmaNic[] _nics;
    private Entry[] _entries = [];            // by rising address; replaced, never changed
    private bool _disposed;

    private sealed class Entry(nint address, long lengthBytes, RdmaMemoryRegion[] regions)
    {
        internal nint Address { get; } = address;

        internal long LengthBytes { get; } = lengthBytes;

        internal RdmaMemoryRegion[] Regions { get; } = regions;
    }

    internal RdmaLocalMemory(RdmaNic[] nics)
    {
        _nics = nics;
        Array.ForEach(nics, static nic => nic.AddReference());      // the devices stay open for as long as a join may come back to them
    }

    /// <summary>Registers memory with all devices at once, in pieces no larger than each of them takes.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="lengthBytes">Its length.</param>
    /// <returns>To be disposed before the memory is freed.</returns>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>: more than may be locked. <see cref="CheckpointError.NotSupported"/>.</exception>
    internal IDisposable Add(nint address, long lengthBytes)
    {
        var registration = new Registration(this, address, lengthBytes);
        long most = RdmaMemoryRegion.LargestBytes(_nics);
        try
        {
            for (long at = 0; at < lengthBytes; at += most)
            {
                AddPiece(address + (nint)at, Math.Min(most, lengthBytes - at));
            }
        }
        catch
        {
            registration.Dispose();
            throw;
        }
        return registration;
    }

    /// <summary>The local key for a byte, and up to which address it holds.</summary>
    /// <returns>False when nobody has added it.</returns>
    internal bool TryFind(nint address, int nic, out uint key, out nint end)
    {
        Entry[] entries = Volatile.Read(ref _entries);
        int low = 0;
        int high = entries.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (entries[middle].Address <= address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }
        if (low != 0 && address - entries[low - 1].Address < entries[low - 1].LengthBytes)
        {
            key = entries[low - 1].Regions[nic].LocalKey;
            end = entries[low - 1].Address + (nint)entries[low - 1].LengthBytes;
            return true;
        }
        key = 0;
        end = 0;
        return false;
    }

    private void AddPiece(nint address, long lengthBytes)
    {
        var regions = new RdmaMemoryRegion?[_nics.Length];
        CheckpointEngineException? failure = null;
        Task.WaitAll([.. Enumerable.Range(0, _nics.Length).Select(i => Task.Run(() => Register(i)))]);
        if (failure is not null)
        {
            Array.ForEach(regions, region => region?.Dispose());
            throw failure;
        }
        lock (_lock)
        {
            Entry[] entries = [.. _entries, new Entry(address, lengthBytes, regions!)];
            Array.Sort(entries, static (a, b) => a.Address.CompareTo(b.Address));
            Volatile.Write(ref _entries, entries);
        }

        void Register(int i)
        {
            const int Access = LibIbverbs.IBV_ACCESS_LOCAL_WRITE | LibIbverbs.IBV_ACCESS_RELAXED_ORDERING;
            regions[i] = RdmaMemoryRegion.TryRegister(_nics[i], address, lengthBytes, (ulong)address, Access, out int errno);
            if (regions[i] is null)
            {
                failure = RdmaMemoryRegion.Refusal(_nics[i], address, lengthBytes, errno);
            }
        }
    }

    // No lane may write to it any more.
    private void Remove(nint address, long lengthBytes)
    {
        Entry[] gone;
        lock (_lock)
        {
            gone = Array.FindAll(_entries, entry => entry.Address >= address && entry.Address - address < lengthBytes);
            Volatile.Write(ref _entries, Array.FindAll(_entries, entry => Array.IndexOf(gone, entry) < 0));
        }
        Array.ForEach(gone, static entry => Array.ForEach(entry.Regions, region => region.Dispose()));
    }

    public void Dispose()
    {
        Remove(0, nint.MaxValue);
        if (!Interlocked.Exchange(ref _disposed, true))
        {
            Array.ForEach(_nics, static nic => nic.Release());
        }
    }

    private sealed class Registration(RdmaLocalMemory memory, nint address, long lengthBytes) : IDisposable
    {
        public void Dispose() => memory.Remove(address, lengthBytes);
    }
}
