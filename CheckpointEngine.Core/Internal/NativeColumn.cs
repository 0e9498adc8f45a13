using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Internal;

/// <summary>A growing array outside the managed heap, for building columns whose length is known only at the end.</summary>
/// <remarks>
/// Growing a large one moves pages instead of bytes (realloc(3) over mremap(2)), and its garbage is gone with Dispose: that keeps the
/// parsing of a million-entry document from leaving twice its size to the collector. One thread at a time.
/// </remarks>
internal unsafe struct NativeColumn<T> : IDisposable where T : unmanaged
{
    private T* _items;
    private nint _capacity;

    internal int Count { get; private set; }

    internal readonly Span<T> Span => new(_items, Count);

    internal readonly ref T this[int index]
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get
        {
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)index, (uint)Count);
            return ref _items[index];
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Add(T item)
    {
        if (Count == _capacity)
        {
            Grow(1);
        }
        _items[Count++] = item;
    }

    internal void AddRange(ReadOnlySpan<T> items)
    {
        if (items.Length > _capacity - Count)
        {
            Grow(items.Length);
        }
        items.CopyTo(new Span<T>(_items + Count, items.Length));
        Count += items.Length;
    }

    internal void Truncate(int count) => Count = count;

    /// <summary>Makes room for so many entries at once; pages that are never written cost nothing.</summary>
    internal void Reserve(int capacity)
    {
        if (capacity > _capacity)
        {
            Grow(capacity - Count);
        }
    }

    /// <param name="pinned">The array never moves: who keeps it alive may keep addresses into it.</param>
    internal readonly T[] ToArray(bool pinned = false)
    {
        if (Count == 0)
        {
            return [];
        }
        T[] array = GC.AllocateUninitializedArray<T>(Count, pinned);
        Span.CopyTo(array);
        return array;
    }

    public void Dispose()
    {
        NativeMemory.Free(_items);
        _items = null;
        _capacity = 0;
        Count = 0;
    }

    private void Grow(int more)
    {
        long needed = (long)Count + more;
        if (needed > Array.MaxLength)
        {
            ThrowHelper.Throw(CheckpointError.OutOfMemory, $"a column of {needed:N0} entries is more than this engine holds");
        }
        nint capacity = (nint)Math.Max(needed, Math.Min(Array.MaxLength, Math.Max(16, _capacity * 2L)));
        _items = (T*)NativeMemory.Realloc(_items, (nuint)capacity * (nuint)sizeof(T));
        _capacity = capacity;
    }
}

/// <summary>A <see cref="NativeColumn{T}"/> that a <c>using</c> can own and a callee can still grow.</summary>
internal sealed class NativeColumnOwner<T> : IDisposable where T : unmanaged
{
    internal NativeColumn<T> Column;

    public void Dispose() => Column.Dispose();
}
