using CheckpointEngine.Interop;

namespace CheckpointEngine.Inference;

/// <summary>Host memory that is pinned for GPUs where it lies: page by page as an update comes to it, each page once, until the update's end.</summary>
/// <remarks>
/// Any thread, with a context current. A copy must not cross from one registration into another, so <see cref="RunLength"/> says how far one goes. What is
/// pinned belongs to tensors that are held as long as the update runs; so no page can have become another's.
/// </remarks>
internal sealed unsafe class CudaHostPins
{
    private readonly Lock _lock = new();
    private readonly List<Range> _ranges = [];       // ascending, without overlap
    private int _users;
    private bool _refused;

    /// <summary>One more device pins here.</summary>
    internal void AddUser() => Interlocked.Increment(ref _users);

    /// <summary>Pins what is not pinned yet.</summary>
    /// <returns>False where this memory cannot be pinned: then the rest of the update goes through memory that is.</returns>
    internal bool TryPin(nint address, long bytes, bool canPinReadOnly)
    {
        long page = Environment.SystemPageSize;
        nint start = (nint)(address & -page);
        nint end = (nint)((address + bytes + page - 1) & -page);
        lock (_lock)
        {
            while (start < end && !_refused)
            {
                int next = FindEndAfter(start);
                if (next < _ranges.Count && _ranges[next].Start <= start)
                {
                    start = _ranges[next].End;
                    continue;
                }
                nint gapEnd = next < _ranges.Count && _ranges[next].Start < end ? _ranges[next].Start : end;
                _refused = !TryRegister(start, gapEnd - start, canPinReadOnly);
                if (!_refused)
                {
                    _ranges.Insert(next, new Range(start, gapEnd));
                    start = gapEnd;
                }
            }
            return !_refused;
        }
    }

    /// <summary>Bytes from an address, which is pinned, to the end of its registration.</summary>
    internal long RunLength(nint address)
    {
        lock (_lock)
        {
            return _ranges[FindEndAfter(address)].End - address;
        }
    }

    /// <summary>A device pins here no more; with the last all is unpinned.</summary>
    internal void RemoveUser(CudaContext context)
    {
        if (Interlocked.Decrement(ref _users) != 0)
        {
            return;
        }
        using CudaContext.Scope scope = context.Enter();
        foreach (Range range in _ranges)
        {
            LibCuda.cuMemHostUnregister((void*)range.Start);
        }
        _ranges.Clear();
    }

    // The first range that ends behind an address.
    private int FindEndAfter(nint address)
    {
        int low = 0;
        int high = _ranges.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_ranges[middle].End > address)
            {
                high = middle;
            }
            else
            {
                low = middle + 1;
            }
        }
        return low;
    }

    // Files are mapped for reading only, which a plain registration refuses; of private mappings that may be written it would make copies, page by page. Where
    // the device does not know the flag, a plain one is better than none.
    private static bool TryRegister(nint start, nint bytes, bool canPinReadOnly)
        => (canPinReadOnly && LibCuda.cuMemHostRegister((void*)start, (nuint)bytes, LibCuda.CU_MEMHOSTREGISTER_PORTABLE | LibCuda.CU_MEMHOSTREGISTER_READ_ONLY) == LibCuda.CUDA_SUCCESS)
            || LibCuda.cuMemHostRegister((void*)start, (nuint)bytes, LibCuda.CU_MEMHOSTREGISTER_PORTABLE) == LibCuda.CUDA_SUCCESS;

    private readonly struct Range(nint start, nint end)
    {
        internal readonly nint Start = start;
        internal readonly nint End = end;
    }
}
