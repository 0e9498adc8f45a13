using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas.Pickle;

/// <summary>
/// Runs a pickle of metas: a closed set of opcodes over a closed set of globals (<see cref="PickleGlobals"/>). Nothing is imported,
/// called or executed; whatever else stands in the input is refused by name and offset.
/// </summary>
/// <remarks>
/// Each opcode does a bounded amount of work, so time and memory are linear in the input; strings and long integers stay where they are
/// in it. One thread.
/// </remarks>
internal ref partial struct PickleInterpreter : IDisposable
{
    internal const string What = "metas pickle";

    // A model has up to four fields and a state up to four entries; a newer version may add some.
    internal const int MaxFields = 64;

    // Eight entries a tensor in protocol 4, which is never shorter than 80 bytes: a guess that saves moving them, not a limit.
    private const int InputBytesPerMemoEntry = 12;

    private readonly ReadOnlySpan<byte> _input;
    private int _at;
    private int _opcodeAt;
    private int _fence;                       // stack entries below the newest mark: out of reach until it is taken
    private NativeColumn<PickleValue> _stack;
    private NativeColumn<int> _fences;        // what _fence was before each mark
    private NativeColumn<PickleValue> _memo;
    private PickleHeap _heap;

    internal PickleInterpreter(ReadOnlySpan<byte> input) => _input = input;

    /// <summary>What the objects of the result consist of.</summary>
    [UnscopedRef]
    internal readonly ref readonly PickleHeap Heap => ref _heap;

    public void Dispose()
    {
        _stack.Dispose();
        _fences.Dispose();
        _memo.Dispose();
        _heap.Dispose();
    }

    /// <summary>Runs the pickle to its end.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: what was refused, and its offset.</exception>
    internal PickleValue Run()
    {
        if (_input.Length < 2 || _input[0] != PickleOpcode.Proto || _input[1] is < 2 or > 5)
        {
            Fail("no pickle of protocol 2 to 5");
        }
        _memo.Reserve(_input.Length / InputBytesPerMemoEntry);
        _heap.Reserve(_input.Length);
        _at = 2;
        while (true)
        {
            _opcodeAt = _at;
            byte opcode = TakeByte();
            switch (opcode)
            {
                case PickleOpcode.BinGet:
                    Get(TakeByte());
                    break;
                case PickleOpcode.LongBinGet:
                    Get(BinaryPrimitives.ReadUInt32LittleEndian(Take(4)));
                    break;
                case PickleOpcode.Memoize:
                    _memo.Add(Top());
                    break;
                case PickleOpcode.BinPut:
                    Put(TakeByte());
                    break;
                case PickleOpcode.LongBinPut:
                    Put(BinaryPrimitives.ReadUInt32LittleEndian(Take(4)));
                    break;
                case PickleOpcode.ShortBinUnicode:
                    PushRange(PickleKind.String, TakeByte());
                    break;
                case PickleOpcode.BinUnicode:
                    PushRange(PickleKind.String, BinaryPrimitives.ReadUInt32LittleEndian(Take(4)));
                    break;
                case PickleOpcode.BinUnicode8:
                    PushRange(PickleKind.String, BinaryPrimitives.ReadUInt64LittleEndian(Take(8)));
                    break;
                case PickleOpcode.Mark:
                    _fences.Add(_fence);
                    _fence = _stack.Count;
                    break;
                case PickleOpcode.None:
                    Push(new PickleValue(PickleKind.None));
                    break;
                case PickleOpcode.NewTrue or PickleOpcode.NewFalse:
                    Push(new PickleValue(PickleKind.Bool, opcode == PickleOpcode.NewTrue ? 1 : 0));
                    break;
                case PickleOpcode.BinInt1:
                    Push(new PickleValue(PickleKind.Int, TakeByte()));
                    break;
                case PickleOpcode.BinInt2:
                    Push(new PickleValue(PickleKind.Int, BinaryPrimitives.ReadUInt16LittleEndian(Take(2))));
                    break;
                case PickleOpcode.BinInt:
                    Push(new PickleValue(PickleKind.Int, BinaryPrimitives.ReadInt32LittleEndian(Take(4))));
                    break;
                case PickleOpcode.Long1:
                    PushLong();
                    break;
                case PickleOpcode.EmptyTuple:
                    Push(new PickleValue(PickleKind.Tuple, 0, 0));
                    break;
                case PickleOpcode.Tuple1:
                    MakeTuple(1);
                    break;
                case PickleOpcode.Tuple2:
                    MakeTuple(2);
                    break;
                case PickleOpcode.Tuple3:
                    MakeTuple(3);
                    break;
                case PickleOpcode.Tuple:
                    MakeTuple(TakeMark());
                    break;
                case PickleOpcode.EmptyList:
                    Push(new PickleValue(PickleKind.List, _heap.NewContainer()));
                    break;
                case PickleOpcode.EmptyDict:
                    Push(new PickleValue(PickleKind.Dict, _heap.NewContainer()));
                    break;
                case PickleOpcode.EmptySet:
                    Push(new PickleValue(PickleKind.Set));
                    break;
                case PickleOpcode.Append:
                    AppendItems(1);
                    break;
                case PickleOpcode.Appends:
                    AppendItems(TakeMark());
                    break;
                case PickleOpcode.SetItem:
                    SetItems(2);
                    break;
                case PickleOpcode.SetItems:
                    SetItems(TakeMark());
                    break;
                case PickleOpcode.AddItems:
                    AddItems(TakeMark());
                    break;
                case PickleOpcode.Global:
                    PushGlobal();
                    break;
                case PickleOpcode.StackGlobal:
                    PushStackGlobal();
                    break;
                case PickleOpcode.NewObj:
                    MakeObject();
                    break;
                case PickleOpcode.Reduce:
                    Reduce();
                    break;
                case PickleOpcode.Build:
                    Build();
                    break;
                case PickleOpcode.Pop:
                    PopOrTakeMark();
                    break;
                case PickleOpcode.PopMark:
                    Drop(TakeMark());
                    break;
                case PickleOpcode.Frame:
                    if (BinaryPrimitives.ReadUInt64LittleEndian(Take(8)) > (ulong)(_input.Length - _at))
                    {
                        Fail("a frame that is longer than the rest of the input");
                    }
                    break;
                case PickleOpcode.Stop:
                    return Stop();
                default:
                    Fail($"refuses opcode {PickleOpcode.NameOf(opcode)}");
                    break;
            }
        }
    }

    private PickleValue Stop()
    {
        if (_stack.Count != 1 || _fences.Count != 0)
        {
            Fail($"ends with {_stack.Count:N0} objects and {_fences.Count:N0} marks on the stack instead of one object");
        }
        if (_at != _input.Length)
        {
            Fail($"{_input.Length - _at:N0} bytes follow its end");
        }
        return _stack[0];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private byte TakeByte()
    {
        if ((uint)_at >= (uint)_input.Length)
        {
            FailTruncated();
        }
        return _input[_at++];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ReadOnlySpan<byte> Take(int count)
    {
        if (count > _input.Length - _at)
        {
            FailTruncated();
        }
        ReadOnlySpan<byte> taken = _input.Slice(_at, count);
        _at += count;
        return taken;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Push(PickleValue value) => _stack.Add(value);

    private readonly PickleValue Top()
    {
        if (_stack.Count <= _fence)
        {
            FailUnderflow();
        }
        return _stack[_stack.Count - 1];
    }

    private PickleValue Pop()
    {
        PickleValue top = Top();
        _stack.Truncate(_stack.Count - 1);
        return top;
    }

    /// <summary>The newest <paramref name="count"/> entries, which stay on the stack until <see cref="Drop"/>.</summary>
    private readonly ReadOnlySpan<PickleValue> Peek(int count)
    {
        if (count > _stack.Count - _fence)
        {
            FailUnderflow();
        }
        return _stack.Span[(_stack.Count - count)..];
    }

    private void Drop(int count) => _stack.Truncate(_stack.Count - count);

    /// <summary>Takes the newest mark away and tells how many entries lay above it.</summary>
    private int TakeMark()
    {
        if (_fences.Count == 0)
        {
            Fail("without a mark");
        }
        int count = _stack.Count - _fence;
        _fence = _fences[_fences.Count - 1];
        _fences.Truncate(_fences.Count - 1);
        return count;
    }

    private void Get(uint index)
    {
        if (index >= (uint)_memo.Count)
        {
            Fail($"memo entry {index}, but there are {_memo.Count:N0}");
        }
        Push(_memo[(int)index]);
    }

    // CPython counts entries from 0 without a gap; an index out of order would let five bytes claim gigabytes.
    private void Put(uint index)
    {
        PickleValue top = Top();
        if (index > (uint)_memo.Count)
        {
            Fail($"memo entry {index} is set before entry {_memo.Count:N0}");
        }
        if (index == (uint)_memo.Count)
        {
            _memo.Add(top);
        }
        else
        {
            _memo[(int)index] = top;
        }
    }

    [DoesNotReturn]
    private readonly void Fail(string reason)
    {
        string opcode = _opcodeAt < _input.Length && _opcodeAt != 0 ? $"{PickleOpcode.NameOf(_input[_opcodeAt])}: " : "";
        ThrowHelper.ThrowInvalidData(What, _opcodeAt, reason.StartsWith("refuses", StringComparison.Ordinal) ? reason : opcode + reason);
    }

    [DoesNotReturn]
    private readonly void FailTruncated() => ThrowHelper.ThrowInvalidData(What, _input.Length, "the input ends too early");

    [DoesNotReturn]
    private readonly void FailUnderflow() => Fail("there are too few objects on the stack");
}
