using CheckpointEngine.Checkpoints;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Inference;

/// <summary>Host memory that is pinned for GPUs where it lies: before an update comes to it where it can be, each page once, until the update's end.</summary>
/// <remarks>
/// Any thread, with a context current. A copy must not cross from one registration into another, so <see cref="RunLength"/> says how far one goes. What is
/// pinned belongs to tensors that are held as long as the update runs; so no page can have become another's.
/// </remarks>
internal sealed unsafe class CudaHostPins
{
    // Two pin small pages half as fast again as one, and more gain nothing: 19 and 30 GB/s of a file in memory on an H100's host, 35 and 57 of huge pages.
    private const int ThreadsAhead = 2;

    // Pinned in a moment, so that the first bucket soon travels; and large enough that a registration is nothing beside it.
    private const long AheadBytes = 64 << 20;

    // Further ahead, the driver is busy with pinning before it comes to the copies.
    private const long WindowBytes = 1L << 30;

    private readonly object _lock = new();
    private readonly List<Range> _ranges = [];       // ascending, without overlap
    private readonly List<Thread> _ahead = [];
    private (nint Start, long Bytes)[] _expected = [];
    private int _nextExpected;
    private long _aheadBytes;        // of the expected that were begun
    private long _copiedBytes;       // that the copies have come to
    private int _users;
    private int _readers;
    private Task<MemoryBuffer>? _stagingMemory;
    private bool _refused;
    private bool _stop;

    /// <summary>One more device pins here.</summary>
    internal void AddUser() => Interlocked.Increment(ref _users);

    /// <summary>Begins to touch the memory of <see cref="CudaStaging"/>, beside the opening of GPUs, which leaves the cores idle.</summary>
    internal void PrepareStagingMemory() => _stagingMemory ??= Task.Run(CudaStaging.AllocateMemory);

    /// <summary>That memory; the caller's.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>.</exception>
    internal MemoryBuffer TakeStagingMemory()
        => Interlocked.Exchange(ref _stagingMemory, null)?.GetAwaiter().GetResult() ?? CudaStaging.AllocateMemory();

    /// <summary>One more buffer takes what it copies from the host, and not from another GPU.</summary>
    internal void AddReader() => Interlocked.Increment(ref _readers);

    /// <summary>How many do.</summary>
    internal int Readers => Volatile.Read(ref _readers);

    /// <summary>Begins to pin what the update will come to, in that order, on threads of its own; once.</summary>
    /// <param name="context">Where.</param>
    /// <param name="runs">Memory that is there until the last <see cref="RemoveUser"/>.</param>
    /// <param name="canPinReadOnly">As for <see cref="TryPin"/>.</param>
    internal void PinAhead(CudaContext context, IReadOnlyList<(nint Start, long Bytes)> runs, bool canPinReadOnly)
    {
        if (_ahead.Count != 0)
        {
            return;
        }
        _expected = [.. runs.SelectMany(static run => Cut(run.Start, run.Bytes))];
        for (int i = 0; i < ThreadsAhead; i++)
        {
            var thread = new Thread(() =>
            {
                if (LibCuda.cuCtxSetCurrent(context.Pointer) != LibCuda.CUDA_SUCCESS)
                {
                    return;         // who comes to the memory pins it, or says why not
                }
                while (TryTakeExpected(out nint start, out long bytes) && TryPin(start, bytes, canPinReadOnly))
                {
                }
            })
            { IsBackground = true, Name = "checkpoint-engine pin" };
            try
            {
                thread.Start();
            }
            catch (Exception none) when (none is OutOfMemoryException or ThreadStartException)
            {
                return;             // likewise
            }
            _ahead.Add(thread);
        }
    }

    /// <summary>Tells how many of the expected bytes copies have come to.</summary>
    internal void Advance(long bytes)
    {
        lock (_lock)
        {
            _copiedBytes += bytes;
            Monitor.PulseAll(_lock);
        }
    }

    private bool TryTakeExpected(out nint start, out long bytes)
    {
        lock (_lock)
        {
            while (!_stop && !_refused && _nextExpected < _expected.Length && _aheadBytes > _copiedBytes + WindowBytes)
            {
                Monitor.Wait(_lock);
            }
            if (_stop || _refused || _nextExpected == _expected.Length)
            {
                (start, bytes) = (0, 0);
                return false;
            }
            (start, bytes) = _expected[_nextExpected++];
            _aheadBytes += bytes;
            return true;
        }
    }

    /// <summary>Pins what is not pinned yet, and waits for what another thread is pinning.</summary>
    /// <returns>False where this memory cannot be pinned: then the rest of the update goes through memory that is.</returns>
    internal bool TryPin(nint address, long bytes, bool canPinReadOnly)
    {
        nint start = PageOf(address);
        nint end = PageOf(address + (nint)bytes + Environment.SystemPageSize - 1);
        while (start < end)
        {
            Range range;
            lock (_lock)
            {
                if (_refused)
                {
                    return false;
                }
                int next = FindEndAfter(start);
                if (next < _ranges.Count && _ranges[next].Start <= start)
                {
                    if (_ranges[next].IsPinned)
                    {
                        start = _ranges[next].End;
                    }
                    else
                    {
                        Monitor.Wait(_lock);
                    }
                    continue;
                }
                nint gapEnd = next < _ranges.Count && _ranges[next].Start < end ? _ranges[next].Start : end;
                range = new Range(start, gapEnd);
                _ranges.Insert(next, range);
            }
            bool pinned = TryRegister(range.Start, range.End - range.Start, canPinReadOnly);
            lock (_lock)
            {
                range.IsPinned = pinned;
                if (!pinned)
                {
                    _refused = true;
                    _ranges.Remove(range);
                }
                Monitor.PulseAll(_lock);
            }
        }
        return true;
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
        lock (_lock)
        {
            _stop = true;
            Monitor.PulseAll(_lock);
        }
        _ahead.ForEach(static thread => thread.Join());
        using CudaContext.Scope scope = context.Enter();
        foreach (Range range in _ranges)
        {
            LibCuda.cuMemHostUnregister((void*)range.Start);
        }
        _ranges.Clear();
        _ = Interlocked.Exchange(ref _stagingMemory, null)?.ContinueWith(static made =>
        {
            if (made.IsCompletedSuccessfully)
            {
                made.Result.Dispose();
            }
            else
            {
                _ = made.Exception;         // nobody wanted it
            }
        }, TaskScheduler.Default);
    }

    // At borders of pages: two threads never want one page.
    internal static IEnumerable<(nint Start, long Bytes)> Cut(nint address, long bytes)
    {
        nint end = address + (nint)bytes;
        for (nint start = address; start < end;)
        {
            nint next = PageOf((nint)Math.Min(end, start + (nint)AheadBytes));
            next = next <= start || end - next < Environment.SystemPageSize ? end : next;
            yield return (start, next - start);
            start = next;
        }
    }

    private static nint PageOf(nint address) => address & -(nint)Environment.SystemPageSize;

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

    private sealed class Range(nint start, nint end)
    {
        internal readonly nint Start = start;
        internal readonly nint End = end;
        internal bool IsPinned;
    }
}
