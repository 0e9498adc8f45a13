using System.Buffers;

namespace CheckpointEngine.Http.Replies;

/// <summary>
/// Bytes whose number is known only at the end, in chunks that never move: what is allocated stays within about an eighth of what is held, where
/// one growing array would have taken twice to three times as much.
/// </summary>
/// <remarks>One writer; once that has ended, any number of readers.</remarks>
internal sealed class ChunkedBuffer : IBufferWriter<byte>
{
    private const int FirstChunkBytes = 4 << 10;
    private const int MaxChunkBytes = 1 << 20;      // an eighth of the whole up to 8 MiB, less of more

    private readonly List<Chunk> _chunks = [];
    private byte[] _current = [];
    private int _used;
    private long _closedBytes;

    /// <summary>Bytes written so far.</summary>
    internal long Length => _closedBytes + _used;

    public void Advance(int count)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)count, (uint)(_current.Length - _used), nameof(count));
        _used += count;
    }

    public Memory<byte> GetMemory(int sizeHint = 0)
    {
        Ensure(sizeHint);
        return _current.AsMemory(_used);
    }

    public Span<byte> GetSpan(int sizeHint = 0)
    {
        Ensure(sizeHint);
        return _current.AsSpan(_used);
    }

    internal void Write(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            Span<byte> free = GetSpan();
            int count = Math.Min(free.Length, bytes.Length);
            bytes[..count].CopyTo(free);
            Advance(count);
            bytes = bytes[count..];
        }
    }

    /// <summary>Sends everything, in slices small enough that no more than the connection's own limit is ever queued.</summary>
    internal async Task CopyToAsync(Stream output, CancellationToken cancellationToken)
    {
        const int SliceBytes = 64 << 10;
        for (int index = 0; index <= _chunks.Count; index++)
        {
            (byte[] bytes, int length) = index < _chunks.Count ? _chunks[index] : new Chunk(_current, _used);
            for (int at = 0; at < length; at += SliceBytes)
            {
                await output.WriteAsync(bytes.AsMemory(at, Math.Min(SliceBytes, length - at)), cancellationToken).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Everything in one piece; copies unless there is but one chunk.</summary>
    internal ReadOnlySpan<byte> ToSpan()
    {
        if (_chunks.Count == 0)
        {
            return _current.AsSpan(0, _used);
        }
        byte[] whole = GC.AllocateUninitializedArray<byte>(checked((int)Length));
        int at = 0;
        foreach ((byte[] bytes, int length) in _chunks)
        {
            bytes.AsSpan(0, length).CopyTo(whole.AsSpan(at));
            at += length;
        }
        _current.AsSpan(0, _used).CopyTo(whole.AsSpan(at));
        return whole;
    }

    private void Ensure(int sizeHint)
    {
        if (_current.Length - _used >= Math.Max(1, sizeHint))
        {
            return;
        }
        if (_used != 0)
        {
            _chunks.Add(new Chunk(_current, _used));
            _closedBytes += _used;
        }
        int bytes = (int)Math.Clamp(_closedBytes / 8, FirstChunkBytes, MaxChunkBytes);
        _current = GC.AllocateUninitializedArray<byte>(Math.Max(bytes, sizeHint));
        _used = 0;
    }

    private readonly record struct Chunk(byte[] Bytes, int Length);
}
