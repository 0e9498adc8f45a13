using System.Buffers;
using System.Buffers.Binary;
using System.Numerics;

namespace CheckpointEngine.Metas.Pickle;

/// <summary>
/// Emits the opcodes of a pickle, protocols 2 to 5, byte for byte as CPython's pickler does for the same objects: widths, memo, frames.
/// </summary>
/// <remarks>
/// The caller sees to the stack; this class knows widths, counts memo entries and closes frames. Begin with the constructor, end with
/// <see cref="Stop"/>. One thread at a time; allocates nothing after the constructor but for strings of more than 64 KiB.
/// Source: CPython, Modules/_pickle.c.
/// </remarks>
internal sealed class PickleWriter : IDisposable
{
    // _pickle.c: FRAME_SIZE_TARGET, at which a frame is closed before the next object; and FRAME_SIZE_MIN, below which it gets no header.
    private const int FrameTargetBytes = 64 << 10;
    private const int FrameMinBytes = 4;
    private const int FrameHeaderBytes = 9;

    private readonly IBufferWriter<byte> _output;
    private readonly bool _isFramed;
    private byte[] _buffer = ArrayPool<byte>.Shared.Rent(FrameTargetBytes * 2);
    private int _used;
    private int _memoCount;

    /// <summary>Begins a pickle.</summary>
    /// <param name="output">Receives it, a frame at a time.</param>
    /// <param name="protocol">2 to 5.</param>
    internal PickleWriter(IBufferWriter<byte> output, int protocol)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(protocol, 2);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(protocol, 5);
        _output = output;
        Protocol = protocol;
        _isFramed = protocol >= 4;
        _output.Write([PickleOpcode.Proto, (byte)protocol]);
    }

    internal int Protocol { get; }

    /// <summary>Ends the pickle and hands what is left of it to the output.</summary>
    internal void Stop()
    {
        Write(PickleOpcode.Stop);
        Flush();
    }

    internal void None() => WriteObject(PickleOpcode.None);

    internal void Boolean(bool value) => WriteObject(value ? PickleOpcode.NewTrue : PickleOpcode.NewFalse);

    internal void EmptyTuple() => WriteObject(PickleOpcode.EmptyTuple);

    internal void EmptyList() => WriteObject(PickleOpcode.EmptyList);

    internal void EmptyDict() => WriteObject(PickleOpcode.EmptyDict);

    /// <summary>Protocol 4 and later.</summary>
    internal void EmptySet() => WriteObject(PickleOpcode.EmptySet);

    internal void Mark() => Write(PickleOpcode.Mark);

    internal void Append() => Write(PickleOpcode.Append);

    internal void Appends() => Write(PickleOpcode.Appends);

    internal void SetItem() => Write(PickleOpcode.SetItem);

    internal void SetItems() => Write(PickleOpcode.SetItems);

    /// <summary>Protocol 4 and later.</summary>
    internal void AddItems() => Write(PickleOpcode.AddItems);

    internal void NewObject() => Write(PickleOpcode.NewObj);

    internal void Reduce() => Write(PickleOpcode.Reduce);

    internal void Build() => Write(PickleOpcode.Build);

    /// <summary>
    /// Makes a tuple of the newest <paramref name="count"/> objects; more than three need a <see cref="Mark"/> below them.
    /// </summary>
    internal void Tuple(int count) => Write(count switch
    {
        1 => PickleOpcode.Tuple1,
        2 => PickleOpcode.Tuple2,
        3 => PickleOpcode.Tuple3,
        _ => PickleOpcode.Tuple,
    });

    internal void Integer(ulong value)
    {
        BeginObject();
        Span<byte> free = Free(1 + 1 + 9);
        if (value <= byte.MaxValue)
        {
            free[0] = PickleOpcode.BinInt1;
            free[1] = (byte)value;
            _used += 2;
        }
        else if (value <= ushort.MaxValue)
        {
            free[0] = PickleOpcode.BinInt2;
            BinaryPrimitives.WriteUInt16LittleEndian(free[1..], (ushort)value);
            _used += 3;
        }
        else if (value <= int.MaxValue)
        {
            free[0] = PickleOpcode.BinInt;
            BinaryPrimitives.WriteInt32LittleEndian(free[1..], (int)value);
            _used += 5;
        }
        else
        {
            int bits = 64 - BitOperations.LeadingZeroCount(value);
            int length = bits / 8 + 1;    // with room for the sign
            free[0] = PickleOpcode.Long1;
            free[1] = (byte)length;
            BinaryPrimitives.WriteUInt64LittleEndian(free[2..], value);
            free[10] = 0;
            _used += 2 + length;
        }
    }

    /// <summary>Emits a string; not memoized.</summary>
    internal void String(ReadOnlySpan<byte> utf8)
    {
        BeginObject();
        Span<byte> free = Free(5 + utf8.Length);
        if (Protocol >= 4 && utf8.Length <= byte.MaxValue)
        {
            free[0] = PickleOpcode.ShortBinUnicode;
            free[1] = (byte)utf8.Length;
            _used += 2;
        }
        else
        {
            free[0] = PickleOpcode.BinUnicode;
            BinaryPrimitives.WriteInt32LittleEndian(free[1..], utf8.Length);
            _used += 5;
        }
        utf8.CopyTo(Free(utf8.Length));
        _used += utf8.Length;
    }

    /// <summary>Emits bytes, protocol 3 and later; not memoized.</summary>
    internal void Bytes(ReadOnlySpan<byte> bytes)
    {
        BeginObject();
        Span<byte> free = Free(5 + bytes.Length);
        if (bytes.Length <= byte.MaxValue)
        {
            free[0] = PickleOpcode.ShortBinBytes;
            free[1] = (byte)bytes.Length;
            _used += 2;
        }
        else
        {
            free[0] = PickleOpcode.BinBytes;
            BinaryPrimitives.WriteInt32LittleEndian(free[1..], bytes.Length);
            _used += 5;
        }
        Write(bytes);
    }

    /// <summary>Emits a global of protocol 2 or 3, where it has an opcode of its own.</summary>
    internal void Global(ReadOnlySpan<byte> module, ReadOnlySpan<byte> name)
    {
        BeginObject();
        Write(PickleOpcode.Global);
        Write(module);
        Write((byte)'\n');
        Write(name);
        Write((byte)'\n');
    }

    /// <summary>Emits a global of protocol 4 and later: module and name are the two strings on the stack.</summary>
    internal void StackGlobal() => Write(PickleOpcode.StackGlobal);

    /// <summary>Emits a global of protocol 4 and later, its two strings included.</summary>
    internal void StackGlobal(ReadOnlySpan<byte> module, ReadOnlySpan<byte> name)
    {
        String(module);
        String(name);
        StackGlobal();
    }

    /// <summary>Gives the newest object a memo entry.</summary>
    /// <returns>The entry.</returns>
    internal int Memoize()
    {
        Span<byte> free = Free(5);
        if (Protocol >= 4)
        {
            free[0] = PickleOpcode.Memoize;
            _used++;
        }
        else
        {
            WriteIndexed(PickleOpcode.BinPut, PickleOpcode.LongBinPut, _memoCount);
        }
        return _memoCount++;
    }

    /// <summary>Emits the object of a memo entry once more.</summary>
    internal void Get(int entry)
    {
        BeginObject();
        WriteIndexed(PickleOpcode.BinGet, PickleOpcode.LongBinGet, entry);
    }

    public void Dispose()
    {
        ArrayPool<byte>.Shared.Return(_buffer);
        _buffer = [];
    }

    private void WriteIndexed(byte shortOpcode, byte longOpcode, int index)
    {
        Span<byte> free = Free(5);
        if (index <= byte.MaxValue)
        {
            free[0] = shortOpcode;
            free[1] = (byte)index;
            _used += 2;
        }
        else
        {
            free[0] = longOpcode;
            BinaryPrimitives.WriteInt32LittleEndian(free[1..], index);
            _used += 5;
        }
    }

    private void WriteObject(byte opcode)
    {
        BeginObject();
        Write(opcode);
    }

    // A frame ends only before an object, and only once it is long enough.
    private void BeginObject()
    {
        if (_used >= FrameTargetBytes)
        {
            Flush();
        }
    }

    private void Flush()
    {
        if (_isFramed && _used >= FrameMinBytes)
        {
            Span<byte> header = stackalloc byte[FrameHeaderBytes];
            header[0] = PickleOpcode.Frame;
            BinaryPrimitives.WriteInt64LittleEndian(header[1..], _used);
            _output.Write(header);
        }
        _output.Write(_buffer.AsSpan(0, _used));
        _used = 0;
    }

    private void Write(byte value)
    {
        Free(1)[0] = value;
        _used++;
    }

    private void Write(ReadOnlySpan<byte> bytes)
    {
        bytes.CopyTo(Free(bytes.Length));
        _used += bytes.Length;
    }

    private Span<byte> Free(int count)
    {
        if (count > _buffer.Length - _used)
        {
            byte[] larger = ArrayPool<byte>.Shared.Rent(Math.Max(_buffer.Length * 2, _used + count));
            _buffer.AsSpan(0, _used).CopyTo(larger);
            ArrayPool<byte>.Shared.Return(_buffer);
            _buffer = larger;
        }
        return _buffer.AsSpan(_used);
    }
}
