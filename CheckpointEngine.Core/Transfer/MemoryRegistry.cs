using System.Diagnostics.CodeAnalysis;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer;

/// <summary>The ranges that peers may read: sorted, never overlapping, looked up on every request whatever the wire.</summary>
/// <remarks>Any number of threads; a look-up takes no lock and allocates nothing.</remarks>
internal sealed class MemoryRegistry
{
    private readonly Lock _lock = new();
    private RegisteredRange[] _ranges = [];    // by rising address; replaced, never changed

    /// <summary>The ranges at this moment, by rising address.</summary>
    internal ReadOnlySpan<RegisteredRange> Ranges => Volatile.Read(ref _ranges);

    /// <summary>Makes a range readable.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.AlreadyExists"/>: it overlaps one that is registered.</exception>
    internal RegisteredRange Register(MemoryBuffer buffer, ulong address, ulong lengthBytes, object? owner = null)
    {
        ArgumentOutOfRangeException.ThrowIfZero(address);
        ArgumentOutOfRangeException.ThrowIfZero(lengthBytes);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(lengthBytes, ulong.MaxValue - address);
        var range = new RegisteredRange(buffer, address, lengthBytes, owner);
        lock (_lock)
        {
            int at = IndexAfter(_ranges, address);
            if ((at > 0 && _ranges[at - 1].Address + _ranges[at - 1].LengthBytes > address)
                || (at < _ranges.Length && _ranges[at].Address < address + lengthBytes))
            {
                ThrowHelper.Throw(CheckpointError.AlreadyExists, $"register memory 0x{address:x} with {lengthBytes:N0} bytes: it overlaps a range that is registered");
            }
            var ranges = new RegisteredRange[_ranges.Length + 1];
            _ranges.AsSpan(0, at).CopyTo(ranges);
            ranges[at] = range;
            _ranges.AsSpan(at).CopyTo(ranges.AsSpan(at + 1));
            Volatile.Write(ref _ranges, ranges);
        }
        return range;
    }

    /// <summary>Closes a range to new reads and waits for those under way.</summary>
    /// <returns>False when reads were still under way after <paramref name="timeout"/>; the memory must then stay.</returns>
    internal async Task<bool> UnregisterAsync(RegisteredRange range, TimeSpan timeout)
    {
        lock (_lock)
        {
            int at = Array.IndexOf(_ranges, range);
            if (at >= 0)
            {
                var ranges = new RegisteredRange[_ranges.Length - 1];
                _ranges.AsSpan(0, at).CopyTo(ranges);
                _ranges.AsSpan(at + 1).CopyTo(ranges.AsSpan(at));
                Volatile.Write(ref _ranges, ranges);
                range.Close();
            }
        }
        try
        {
            await range.Drained.WaitAsync(timeout).ConfigureAwait(false);
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
