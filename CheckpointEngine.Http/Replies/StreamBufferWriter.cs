using System.Buffers;

namespace CheckpointEngine.Http.Replies;

/// <summary>Lets the writers of metas feed a compressor, so that the plain text never exists as a whole. Dispose hands over the rest.</summary>
/// <remarks>One thread; the stream stays open.</remarks>
internal sealed class StreamBufferWriter(Stream output) : IBufferWriter<byte>, IDisposable
{
    private byte[] _scratch = ArrayPool<byte>.Shared.Rent(64 << 10);
    private int _used;

    public void Advance(int count)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)count, (uint)(_scratch.Length - _used), nameof(count));
        _used += count;
    }

    public Memory<byte> GetMemory(int sizeHint = 0)
    {
        Ensure(sizeHint);
        return _scratch.AsMemory(_used);
    }

    public Span<byte> GetSpan(int sizeHint = 0)
    {
        Ensure(sizeHint);
        return _scratch.AsSpan(_used);
    }

    public void Dispose()
    {
        Flush();
        ArrayPool<byte>.Shared.Return(_scratch);
        _scratch = [];
    }

    private void Ensure(int sizeHint)
    {
        if (_scratch.Length - _used >= Math.Max(1, sizeHint))
        {
            return;
        }
        Flush();
        if (_scratch.Length < sizeHint)
        {
            ArrayPool<byte>.Shared.Return(_scratch);
            _scratch = ArrayPool<byte>.Shared.Rent(sizeHint);
        }
    }

    private void Flush()
    {
        output.Write(_scratch, 0, _used);
        _used = 0;
    }
}
