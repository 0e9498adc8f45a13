using System.Diagnostics.CodeAnalysis;
using System.Text;
using System.Text.Unicode;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas.Pickle;

/// <summary>Tells a builder what the objects of a pickle say: owners, their buffers, the tensors of those.</summary>
/// <remarks>
/// The walk goes as deep as metas do and no deeper, so a list that contains itself is only a list in the wrong place. What it writes is
/// counted against a budget that grows with the input: an object that a small pickle uses a million times is refused.
/// </remarks>
internal ref struct PickleMetasWalk
{
    // Nothing that CPython writes for metas comes near: there each tensor costs the input more than the budget. The rest is for small
    // documents in which objects are shared.
    private const long FreeBudgetBytes = 1 << 20;
    private const int BudgetPerInputByte = 4;
    private const int EntryCostBytes = 16;
    private const int OwnerCostBytes = 64;

    private readonly ref readonly PickleHeap _heap;
    private readonly ReadOnlySpan<byte> _input;
    private readonly CheckpointMetasBuilder _builder;
    private long _budgetBytes;

    internal PickleMetasWalk(ref readonly PickleHeap heap, ReadOnlySpan<byte> input, CheckpointMetasBuilder builder)
    {
        _heap = ref heap;
        _input = input;
        _builder = builder;
        _budgetBytes = FreeBudgetBytes + (long)BudgetPerInputByte * input.Length;
    }

    internal void AddOwners(PickleValue root)
    {
        if (root.Kind != PickleKind.Dict)
        {
            ThrowWrong(0, $"expected a dict of owners by rank, found {root.Kind.InWords()}");
        }
        for (int run = root.Node; run >= 0;)
        {
            ReadOnlySpan<PickleValue> items = _heap.NextRun(ref run);
            for (int i = 0; i < items.Length; i += 2)
            {
                if (items[i].Kind != PickleKind.Int || items[i].Number is < 0 or > int.MaxValue)
                {
                    ThrowWrong(0, $"expected a rank below 2^31, found {Describe(items[i])}");
                }
                int rank = (int)items[i].Number;
                int owner = Object(items[i + 1], PickleModel.MemoryBufferMetaList, 0);
                if (_builder.HasOwner(rank))
                {
                    ThrowWrong(OffsetOf(owner), $"rank {rank} is told twice");
                }
                if (_builder.OwnerCount == MetasLimits.MaxOwners)
                {
                    ThrowWrong(OffsetOf(owner), $"more than {MetasLimits.MaxOwners:N0} owners");
                }
                AddOwner(owner, rank);
            }
        }
    }

    private void AddOwner(int owner, int rank)
    {
        Span<PickleValue> fields = stackalloc PickleValue[3];
        Spend(owner, OwnerCostBytes);
        int seen = Fields(owner, fields, "p2p_store_addr"u8, "memory_buffer_metas_list"u8, "rdma_device"u8, default);
        if ((seen & 2) == 0)
        {
            ThrowMissing(owner, "memory_buffer_metas_list");
        }
        if (fields[1].Kind != PickleKind.List)
        {
            ThrowWrong(OffsetOf(owner), $"memory_buffer_metas_list: expected a list, found {Describe(fields[1])}");
        }
        for (int run = fields[1].Node; run >= 0;)
        {
            foreach (PickleValue buffer in _heap.NextRun(ref run))
            {
                AddBuffer(Object(buffer, PickleModel.MemoryBufferMetas, OffsetOf(owner)));
            }
        }
        string? address = TextOrNull(owner, fields[0], "p2p_store_addr");
        string? device = TextOrNull(owner, fields[2], "rdma_device");
        _builder.EndOwner(rank, address, device);
    }

    private void AddBuffer(int buffer)
    {
        Span<PickleValue> fields = stackalloc PickleValue[3];
        int seen = Fields(buffer, fields, "metas"u8, "ptr"u8, "size"u8, default);
        if (seen != 7)
        {
            ThrowMissing(buffer, (seen & 1) == 0 ? "metas" : (seen & 2) == 0 ? "ptr" : "size");
        }
        Spend(buffer, EntryCostBytes);
        if (fields[0].Kind != PickleKind.List)
        {
            ThrowWrong(OffsetOf(buffer), $"metas: expected a list, found {Describe(fields[0])}");
        }
        for (int run = fields[0].Node; run >= 0;)
        {
            foreach (PickleValue tensor in _heap.NextRun(ref run))
            {
                AddTensor(Object(tensor, PickleModel.ParameterMeta, OffsetOf(buffer)));
            }
        }
        if (!fields[1].TryGetNumber(_input, out ulong address))
        {
            ThrowWrong(OffsetOf(buffer), $"ptr: expected a whole number from 0 below 2^64, found {Describe(fields[1])}");
        }
        _builder.EndBuffer(address, Number(buffer, fields[2], "size"));
    }

    private void AddTensor(int tensor)
    {
        Span<PickleValue> fields = stackalloc PickleValue[4];
        int seen = Fields(tensor, fields, "name"u8, "dtype"u8, "shape"u8, "aligned_size"u8);
        if ((seen & 7) != 7)
        {
            ThrowMissing(tensor, (seen & 1) == 0 ? "name" : (seen & 2) == 0 ? "dtype" : "shape");
        }
        ReadOnlySpan<byte> name = Text(tensor, fields[0], "name");
        if (fields[2].Kind is not PickleKind.Size || fields[2].Length > MetasLimits.MaxDimensions)
        {
            ThrowWrong(OffsetOf(tensor),
                $"shape: expected a torch.Size of at most {MetasLimits.MaxDimensions} dimensions, found {Describe(fields[2])}");
        }
        ReadOnlySpan<PickleValue> dimensions = _heap.Items(fields[2]);
        Span<long> buffer = stackalloc long[MetasLimits.MaxDimensions];
        for (int i = 0; i < dimensions.Length; i++)
        {
            buffer[i] = Number(tensor, dimensions[i], "shape");
        }
        ReadOnlySpan<long> shape = buffer[..dimensions.Length];
        Spend(tensor, EntryCostBytes + name.Length + sizeof(long) * shape.Length);

        TensorDtype dtype = fields[1].Kind == PickleKind.Dtype ? (TensorDtype)fields[1].Number : TensorDtype.Unknown;
        long slotBytes = (seen & 8) != 0 ? Number(tensor, fields[3], "aligned_size") : DefaultSlot(tensor, dtype, shape);
        if (dtype != TensorDtype.Unknown)
        {
            _builder.AddTensor(name, dtype, shape, slotBytes);
            return;
        }
        if (fields[1].Kind != PickleKind.OtherDtype)
        {
            ThrowWrong(OffsetOf(tensor), $"dtype: expected a torch.dtype, found {Describe(fields[1])}");
        }
        _builder.AddTensor(name, [.. "torch."u8, .. fields[1].TextIn(_input)], shape, slotBytes);
    }

    private readonly long DefaultSlot(int tensor, TensorDtype dtype, ReadOnlySpan<long> shape)
    {
        long lengthBytes = dtype == TensorDtype.Unknown ? -1 : dtype.ByteLength(shape);
        long slotBytes = lengthBytes < 0 ? -1 : MetasLimits.DefaultSlotBytes(lengthBytes);
        if (slotBytes < 0)
        {
            ThrowWrong(OffsetOf(tensor), "it has no 'aligned_size', and its type and shape do not give its size");
        }
        return slotBytes;
    }

    private readonly int Object(PickleValue value, PickleModel model, int offset)
    {
        if (value.Kind != PickleKind.Object || _heap.ModelOf(value.Node) != model)
        {
            ThrowWrong(offset, $"expected a {model}, found {Describe(value)}");
        }
        if (_heap.FieldsOf(value.Node) < 0)
        {
            ThrowWrong(OffsetOf(value.Node), $"a {model} without a state");
        }
        return value.Node;
    }

    /// <summary>Looks up the fields of an object by name, each at most once; unknown ones are skipped.</summary>
    /// <returns>A bit for each that is there, the first the lowest.</returns>
    private readonly int Fields(int node, Span<PickleValue> values,
        ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, ReadOnlySpan<byte> third, ReadOnlySpan<byte> fourth)
    {
        int seen = 0;
        int entries = 0;
        for (int run = _heap.FieldsOf(node); run >= 0;)
        {
            ReadOnlySpan<PickleValue> items = _heap.NextRun(ref run);
            for (int i = 0; i < items.Length; i += 2)
            {
                if (++entries > PickleInterpreter.MaxFields)
                {
                    ThrowWrong(OffsetOf(node), $"a {_heap.ModelOf(node)} of more than {PickleInterpreter.MaxFields} fields");
                }
                ReadOnlySpan<byte> name = items[i].Kind == PickleKind.String ? items[i].TextIn(_input) : default;
                int field = name.IsEmpty ? -1
                    : name.SequenceEqual(first) ? 0
                    : name.SequenceEqual(second) ? 1
                    : name.SequenceEqual(third) ? 2
                    : name.SequenceEqual(fourth) ? 3
                    : -1;
                if (field < 0)
                {
                    continue;
                }
                if ((seen & 1 << field) != 0)
                {
                    ThrowWrong(OffsetOf(node), $"a {_heap.ModelOf(node)} with two of {MessageText.Quote(name)}");
                }
                seen |= 1 << field;
                values[field] = items[i + 1];
            }
        }
        return seen;
    }

    private string? TextOrNull(int node, PickleValue value, string field)
    {
        if (value.Kind == PickleKind.None)
        {
            return null;
        }
        ReadOnlySpan<byte> text = Text(node, value, field);
        Spend(node, 2 * text.Length);
        return Encoding.UTF8.GetString(text);
    }

    private readonly ReadOnlySpan<byte> Text(int node, PickleValue value, string field)
    {
        if (value.Kind != PickleKind.String)
        {
            ThrowWrong(OffsetOf(node), $"{field}: expected a string, found {Describe(value)}");
        }
        ReadOnlySpan<byte> text = value.TextIn(_input);
        if (text.Length > MetasLimits.MaxTextBytes)
        {
            ThrowWrong(value.Start, $"{field} of {text.Length:N0} bytes, more than the {MetasLimits.MaxTextBytes:N0} that are read");
        }
        if (!Utf8.IsValid(text))
        {
            ThrowWrong(value.Start, $"{field} is not UTF-8");
        }
        return text;
    }

    private readonly long Number(int node, PickleValue value, string field)
    {
        if (!value.TryGetNumber(_input, out ulong number) || number > long.MaxValue)
        {
            ThrowWrong(OffsetOf(node), $"{field}: expected a whole number from 0 below 2^63, found {Describe(value)}");
        }
        return (long)number;
    }

    private void Spend(int node, long bytes)
    {
        _budgetBytes -= bytes;
        if (_budgetBytes < 0)
        {
            ThrowWrong(OffsetOf(node), "its objects are used so often that the metas are many times as long as the pickle");
        }
    }

    private readonly int OffsetOf(int node) => _heap.OffsetOf(node);

    private readonly string Describe(PickleValue value) => value.Kind switch
    {
        PickleKind.Object => $"a {_heap.ModelOf(value.Node)}",
        PickleKind.Int => $"{value.Number}",
        PickleKind.String => $"the string {MessageText.Quote(value.TextIn(_input))}",
        PickleKind.Size => $"a torch.Size of {value.Length}",
        _ => value.Kind.InWords(),
    };

    [DoesNotReturn]
    private readonly void ThrowMissing(int node, string field) => ThrowWrong(OffsetOf(node), $"the {_heap.ModelOf(node)} has no '{field}'");

    [DoesNotReturn]
    private static void ThrowWrong(int offset, string reason) => ThrowHelper.ThrowWrongShape(PickleInterpreter.What, offset, reason);
}
