using System.Buffers;
using System.Buffers.Text;
using System.Diagnostics;
using System.Runtime.CompilerServices;

namespace CheckpointEngine.Internal;

/// <summary>
/// Writes small pieces into an <see cref="IBufferWriter{T}"/>, asking it for memory once a few KiB instead of once a piece.
/// </summary>
/// <remarks>What was written counts only after <see cref="Flush"/>. Allocates nothing itself.</remarks>
internal ref struct BufferCursor(IBufferWriter<byte> output)
{
    private const int RequestBytes = 4096;
    private const int MaxNumberBytes = 20;

    private Span<byte> _free;
    private int _used;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Write(byte value)
    {
        if (_used == _free.Length)
        {
            Renew(1);
        }
        _free[_used++] = value;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Write(scoped ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length > _free.Length - _used)
        {
            Renew(bytes.Length);
        }
        bytes.CopyTo(_free[_used..]);
        _used += bytes.Length;
    }

    internal void WriteDecimal(ulong value)
    {
        if (MaxNumberBytes > _free.Length - _used)
        {
            Renew(MaxNumberBytes);
        }
        bool written = Utf8Formatter.TryFormat(value, _free[_used..], out int count);
        Debug.Assert(written);
        _used += count;
    }

    internal void Flush()
    {
        output.Advance(_used);
        _free = default;
        _used = 0;
    }

    private void Renew(int needed)
    {
        Flush();
        _free = output.GetSpan(Math.Max(needed, RequestBytes));
    }
}
