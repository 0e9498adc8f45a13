namespace CheckpointEngine.Native;

/// <summary>
/// What the caller's handles stand for. A handle is a number, not an address: its high byte makes it one that faults when dereferenced, its low bits
/// are a place in this table, and what is between is never used twice, so a stale or invented handle is found out whatever its bits.
/// </summary>
/// <remarks>Any number of threads; a look-up takes no lock. Whoever has looked up an object keeps it alive, destroyed or not.</remarks>
internal static class Handles
{
    private const ulong Mark = 0xCEUL << 56;
    private const int PlaceBits = 20;
    private const ulong MaxSerial = (1UL << (56 - PlaceBits)) - 1;

    private static readonly Lock s_lock = new();
    private static readonly Stack<int> s_free = new();
    private static Slot?[] s_slots = new Slot?[64];
    private static int s_used;
    private static ulong s_serial = (ulong)Random.Shared.NextInt64(1, (long)MaxSerial);      // two copies of the library in one process: neither knows the other's

    private sealed record Slot(ulong Handle, object Value);

    internal static nint Add(object value)
    {
        lock (s_lock)
        {
            if (!s_free.TryPop(out int place))
            {
                place = s_used++;
                if (place >> PlaceBits != 0)
                {
                    s_used--;
                    throw new CheckpointEngineException(CheckpointError.OutOfMemory, $"{1 << PlaceBits:N0} handles are open: destroy those that are not needed");
                }
                if (place == s_slots.Length)
                {
                    Slot?[] larger = new Slot?[place * 2];
                    s_slots.CopyTo(larger, 0);
                    Volatile.Write(ref s_slots, larger);
                }
            }
            s_serial = s_serial == MaxSerial ? 1 : s_serial + 1;
            var slot = new Slot(Mark | (s_serial << PlaceBits) | (uint)place, value);
            Volatile.Write(ref s_slots[place], slot);
            return (nint)slot.Handle;
        }
    }

    /// <exception cref="CallException">It is no handle of such an object.</exception>
    internal static T Get<T>(nint handle)
        where T : class
        => Find(handle) as T ?? throw Unknown<T>(handle);

    internal static object? Find(nint handle)
    {
        Slot?[] slots = Volatile.Read(ref s_slots);
        int place = (int)((ulong)handle & ((1 << PlaceBits) - 1));
        return place < slots.Length && Volatile.Read(ref slots[place]) is Slot slot && slot.Handle == (ulong)handle ? slot.Value : null;
    }

    /// <summary>Takes an object out: of several threads that destroy it, one gets it.</summary>
    /// <exception cref="CallException">It is no handle of such an object.</exception>
    internal static T Remove<T>(nint handle)
        where T : class
    {
        lock (s_lock)
        {
            T value = Get<T>(handle);
            int place = (int)((ulong)handle & ((1 << PlaceBits) - 1));
            Volatile.Write(ref s_slots[place], null);
            s_free.Push(place);
            return value;
        }
    }

    private static CallException Unknown<T>(nint handle)
    {
        string kind = typeof(T).Name["Native".Length..].ToLowerInvariant();
        return new CallException(Status.Handle, handle == 0 ? $"the {kind} is NULL" : $"0x{handle:x} is no handle of a {kind}: it was destroyed, is of another kind, or never was one");
    }
}
