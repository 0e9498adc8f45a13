using System.IO.Hashing;
using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;

namespace CheckpointEngine.Checkpoints;

/// <summary>
/// Names, types, shapes and places of many tensors, in columns: names as UTF-8 in one block, shapes interned, numbers in arrays.
/// A million small objects would cost ten times the memory and a collection that walks them.
/// </summary>
/// <remarks>
/// Immutable; any number of threads. Tensors are counted from 0 in the order they were added; a tensor lies in a <em>slot</em> of its
/// buffer, <see cref="GetSlotBytes"/> long (metas call that <c>aligned_size</c>), of which the first <see cref="GetByteLength"/> bytes are data.
/// </remarks>
public sealed unsafe class TensorTable
{
    private readonly byte[] _names;              // each with a NUL behind it; pinned, as are the dimensions: C callers get addresses
    private readonly int[] _nameEnds;
    private readonly byte[] _dtypes;             // index into _dtypeNames
    private readonly TensorDtype[] _dtypeCodes;  // per entry of _dtypeNames
    private readonly string[] _dtypeNames;       // torch name or, for Unknown, the name as read
    private readonly int[] _shapes;              // index into _shapeEnds
    private readonly int[] _shapeEnds;
    private readonly long[] _dimensions;
    private readonly long[] _elements;           // per shape: product of its dimensions, -1 when that overflows
    private readonly long[] _slotBytes;
    private readonly long[] _offsets;
    private NameIndex? _index;                   // made at the first look-up

    internal TensorTable(byte[] names, int[] nameEnds, byte[] dtypes, TensorDtype[] dtypeCodes, string[] dtypeNames,
        int[] shapes, int[] shapeEnds, long[] dimensions, long[] slotBytes, long[] offsets)
    {
        _names = names;
        _nameEnds = nameEnds;
        _dtypes = dtypes;
        _dtypeCodes = dtypeCodes;
        _dtypeNames = dtypeNames;
        _shapes = shapes;
        _shapeEnds = shapeEnds;
        _dimensions = dimensions;
        _elements = new long[shapeEnds.Length];
        for (int shape = 0; shape < shapeEnds.Length; shape++)
        {
            int start = shape == 0 ? 0 : shapeEnds[shape - 1];
            _elements[shape] = TensorDtypes.ElementCount(dimensions.AsSpan(start, shapeEnds[shape] - start));
        }
        _slotBytes = slotBytes;
        _offsets = offsets;
    }

    /// <summary>A table without tensors.</summary>
    public static TensorTable Empty { get; } = new([], [], [], [], [], [], [], [], [], []);

    /// <summary>Number of tensors.</summary>
    public int Count => _nameEnds.Length;

    /// <summary>Name of tensor <paramref name="tensor"/>, UTF-8.</summary>
    public ReadOnlySpan<byte> GetNameUtf8(int tensor)
    {
        int start = tensor == 0 ? 0 : _nameEnds[tensor - 1] + 1;
        return _names.AsSpan(start, _nameEnds[tensor] - start);
    }

    /// <summary>Address of a tensor's name, which ends with NUL; valid while the table lives.</summary>
    internal byte* GetNameAddress(int tensor) => (byte*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(GetNameUtf8(tensor)));

    /// <summary>Address of a tensor's dimensions; valid while the table lives.</summary>
    internal long* GetShapeAddress(int tensor) => (long*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(GetShape(tensor)));

    /// <summary>Name of tensor <paramref name="tensor"/>; allocates the string.</summary>
    public string GetName(int tensor) => Encoding.UTF8.GetString(GetNameUtf8(tensor));

    /// <summary>Element type.</summary>
    public TensorDtype GetDtype(int tensor) => _dtypeCodes[_dtypes[tensor]];

    /// <summary>The element type's torch name (<c>torch.bfloat16</c>); for <see cref="TensorDtype.Unknown"/> the name that its metas used; else the safetensors name.</summary>
    public string GetDtypeName(int tensor) => _dtypeNames[_dtypes[tensor]];

    /// <summary>Dimensions; empty for a zero-dimensional tensor (one element).</summary>
    public ReadOnlySpan<long> GetShape(int tensor)
    {
        int shape = _shapes[tensor];
        int start = shape == 0 ? 0 : _shapeEnds[shape - 1];
        return _dimensions.AsSpan(start, _shapeEnds[shape] - start);
    }

    /// <summary>Bytes of data: shape times element width, or the whole slot when the type is <see cref="TensorDtype.Unknown"/>.</summary>
    public long GetByteLength(int tensor)
    {
        TensorDtype dtype = GetDtype(tensor);
        long elements = _elements[_shapes[tensor]];
        return dtype == TensorDtype.Unknown ? _slotBytes[tensor] : elements < 0 ? -1 : TensorDtypes.ByteLength(dtype, elements);
    }

    /// <summary>Bytes that the tensor occupies in its buffer; the next tensor of the buffer starts behind them.</summary>
    public long GetSlotBytes(int tensor) => _slotBytes[tensor];

    /// <summary>Bytes from the start of the tensor's buffer to its first byte.</summary>
    public long GetOffset(int tensor) => _offsets[tensor];

    /// <summary>Finds a tensor by name: the first that was added, or -1. After the first call it allocates nothing.</summary>
    public int IndexOf(ReadOnlySpan<byte> nameUtf8)
    {
        int[] index = Index.Entries;
        for (uint at = Hash(nameUtf8) & (uint)(index.Length - 1); ; at = (at + 1) & (uint)(index.Length - 1))
        {
            int entry = index[at] - 1;
            if (entry < 0)
            {
                return -1;
            }
            if (GetNameUtf8(entry).SequenceEqual(nameUtf8))
            {
                return entry;
            }
        }
    }

    /// <summary>Finds a tensor by name: the first that was added, or -1.</summary>
    public int IndexOf(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        int bytes = Encoding.UTF8.GetByteCount(name);
        Span<byte> utf8 = bytes <= 512 ? stackalloc byte[512] : new byte[bytes];
        return IndexOf(utf8[..Encoding.UTF8.GetBytes(name, utf8)]);
    }

    /// <summary>Finds the first tensor whose name an earlier one has too, or -1 when all names differ.</summary>
    public int FindDuplicateName() => Index.FirstDuplicate;

    private NameIndex Index => _index ??= BuildIndex();

    private NameIndex BuildIndex()
    {
        int[] entries = new int[BitOperations.RoundUpToPowerOf2((uint)Math.Max(4, Count * 2L))];
        uint mask = (uint)(entries.Length - 1);
        int firstDuplicate = -1;
        for (int tensor = 0; tensor < Count; tensor++)
        {
            ReadOnlySpan<byte> name = GetNameUtf8(tensor);
            uint at = Hash(name) & mask;
            while (entries[at] != 0 && !GetNameUtf8(entries[at] - 1).SequenceEqual(name))
            {
                at = (at + 1) & mask;
            }
            if (entries[at] == 0)
            {
                entries[at] = tensor + 1;
            }
            else if (firstDuplicate < 0)
            {
                firstDuplicate = tensor;
            }
        }
        return new NameIndex(entries, firstDuplicate);
    }

    // Open addressing by the hash of the name, tensor + 1; 0 is free.
    private sealed record NameIndex(int[] Entries, int FirstDuplicate);

    // Seeded per process: names come from strangers, and a known hash would let them build a chain as long as the table.
    private static readonly long s_seed = Random.Shared.NextInt64();

    private static uint Hash(ReadOnlySpan<byte> name) => (uint)XxHash3.HashToUInt64(name, s_seed);
}
