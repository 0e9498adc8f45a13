using System.Diagnostics.CodeAnalysis;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer;

/// <summary>The ranges that peers may read: sorted, never overlapping, looked up on every request whatever the wire.</summary>
/// <remarks>Any number of threads; a look-up takes no lock and allocates nothing.</remarks>
internal sealed class MemoryRegistry : IBufferFilling
{
    private readonly Lock _lock = new();
    private RegisteredRange[] _ranges = [];    // by rising address; replaced, never changed
    private Action<RegisteredRange>? _added;
    private Action<RegisteredRange>? _removed;
    private Action<MemoryBuffer>? _begun;
    private Action<MemoryBuffer>? _abandoned;

    /// <summary>The ranges at this moment, by rising address.</summary>
    internal ReadOnlySpan<RegisteredRange> Ranges => Volatile.Read(ref _ranges);

    /// <summary>Lets another plane know every range: before it can be read, and when it no longer may be.</summary>
    /// <param name="added">Called outside of any lock; an exception undoes the registration.</param>
    /// <param name="removed">Ends every way of the plane to the range before it returns.</param>
    /// <remarks>Once, before anything is registered.</remarks>
    internal void Observe(Action<RegisteredRange> added, Action<RegisteredRange> removed)
    {
        _added = added;
        _removed = removed;
    }

    /// <summary>Lets another plane know of buffers that are about to be filled, all of which may become a range.</summary>
    /// <param name="begun">Returns at once.</param>
    /// <param name="abandoned">The buffer is to be freed, and becomes no range.</param>
    /// <remarks>Once, before anything is registered.</remarks>
    internal void ObserveFilling(Action<MemoryBuffer> begun, Action<MemoryBuffer> abandoned)
    {
        _begun = begun;
        _abandoned = abandoned;
    }

    public void BeginFilling(MemoryBuffer buffer) => _begun?.Invoke(buffer);

    public void AbandonFilling(MemoryBuffer buffer) => _abandoned?.Invoke(buffer);

    /// <summary>Makes a range readable.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.AlreadyExists"/>: it overlaps one that is registered.</exception>
    internal RegisteredRange Register(MemoryBuffer buffer, ulong address, ulong lengthBytes, object? owner = null)
    {
        var range = new RegisteredRange(buffer, address, lengthBytes, owner);
        Register([range]);
        return range;
    }

    /// <summary>Makes ranges readable, all or none; they may come in any order.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.AlreadyExists"/>: one overlaps another, or one that is registered.</exception>
    internal void Register(IReadOnlyCollection<RegisteredRange> added)
    {
        int told = 0;
        try
        {
            foreach (RegisteredRange range in added)
            {
                _added?.Invoke(range);
                told++;
            }
            Publish(added);
        }
        catch
        {
            foreach (RegisteredRange range in added.Take(told))
            {
                _removed?.Invoke(range);
            }
            throw;
        }
    }

    private void Publish(IReadOnlyCollection<RegisteredRange> added)
    {
        lock (_lock)
        {
            RegisteredRange[] ranges = [.. _ranges, .. added];
            Array.Sort(ranges, static (a, b) => a.Address.CompareTo(b.Address));
            for (int i = 1; i < ranges.Length; i++)
            {
                if (ranges[i - 1].Address + ranges[i - 1].LengthBytes > ranges[i].Address)
                {
                    ThrowHelper.Throw(CheckpointError.AlreadyExists,
                        $"register memory 0x{ranges[i].Address:x} with {ranges[i].LengthBytes:N0} bytes: it overlaps a range that is registered, 0x{ranges[i - 1].Address:x} with {ranges[i - 1].LengthBytes:N0} bytes");
                }
            }
            Volatile.Write(ref _ranges, ranges);
        }
    }

    /// <summary>Closes a range to new reads and waits for those under way.</summary>
    /// <returns>False when reads were still under way after <paramref name="timeout"/>; the memory must then stay.</returns>
    internal Task<bool> UnregisterAsync(RegisteredRange range, TimeSpan timeout) => UnregisterAsync([range], timeout);

    /// <inheritdoc cref="UnregisterAsync(RegisteredRange, TimeSpan)"/>
    internal async Task<bool> UnregisterAsync(IReadOnlyCollection<RegisteredRange> taken, TimeSpan timeout)
    {
        var going = new HashSet<RegisteredRange>(taken);
        lock (_lock)
        {
            RegisteredRange[] left = Array.FindAll(_ranges, range => !going.Contains(range));
            going.IntersectWith(_ranges);
            Volatile.Write(ref _ranges, left);
            foreach (RegisteredRange range in going)
            {
                range.Close();
            }
        }
        foreach (RegisteredRange range in going)
        {
            _removed?.Invoke(range);
        }
        try
        {
            await Task.WhenAll(taken.Select(range => range.Drained)).WaitAsync(timeout).ConfigureAwait(false);
            return true;
        }
        catch (TimeoutException)
        {
            return false;
        }
    }

    /// <summary>Finds the one range that holds all of <c>[address, address + length)</c> and counts a read on it; <see cref="RegisteredRange.EndRead"/> ends it.</summary>
    /// <returns>False for length 0, a wrap-around, bytes outside every range, or a range that is being taken away.</returns>
    internal bool TryBeginRead(ulong address, ulong lengthBytes, [NotNullWhen(true)] out RegisteredRange? range)
        => TryFind(address, lengthBytes, out range) && range.TryBeginRead();

    /// <summary>Finds the one range that holds all of <c>[address, address + length)</c>.</summary>
    internal bool TryFind(ulong address, ulong lengthBytes, [NotNullWhen(true)] out RegisteredRange? range)
    {
        RegisteredRange[] ranges = Volatile.Read(ref _ranges);
        int at = IndexAfter(ranges, address) - 1;
        range = at >= 0 && lengthBytes != 0 && ranges[at].Contains(address, lengthBytes) ? ranges[at] : null;
        return range is not null;
    }

    // Index of the first range that starts behind `address`.
    private static int IndexAfter(RegisteredRange[] ranges, ulong address)
    {
        int low = 0;
        int high = ranges.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (ranges[middle].Address <= address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }
        return low;
    }
}
