using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>Collects tensors into a <see cref="TensorTable"/>.</summary>
/// <remarks>
/// One thread at a time; Dispose frees what was collected. The columns grow outside the managed heap; only <see cref="Build"/> allocates there.
/// </remarks>
public sealed class TensorTableBuilder : IDisposable
{
    private const int MaxDtypes = 255;

    private NativeColumn<byte> _names;
    private NativeColumn<int> _nameEnds;
    private NativeColumn<byte> _dtypes;
    private NativeColumn<int> _shapes;
    private NativeColumn<int> _shapeEnds;
    private NativeColumn<long> _dimensions;
    private NativeColumn<long> _slotBytes;
    private NativeColumn<long> _offsets;
    private readonly List<TensorDtype> _dtypeCodes = [];
    private readonly List<string> _dtypeNames = [];
    private readonly List<byte[]> _dtypeNamesUtf8 = [];
    private readonly Dictionary<int, int> _shapesByHash = [];   // hash of the dimensions -> newest shape with that hash
    private int _lastShape = -1;

    /// <summary>Tensors added so far.</summary>
    public int Count => _nameEnds.Count;

    /// <summary>Adds a tensor of a known type.</summary>
    /// <param name="nameUtf8">Its name.</param>
    /// <param name="dtype">Its type, not <see cref="TensorDtype.Unknown"/>.</param>
    /// <param name="shape">Its dimensions.</param>
    /// <param name="slotBytes">Bytes of its slot.</param>
    /// <param name="offset">Bytes from the buffer's start.</param>
    public void Add(ReadOnlySpan<byte> nameUtf8, TensorDtype dtype, ReadOnlySpan<long> shape, long slotBytes, long offset)
    {
        int code = _dtypeCodes.IndexOf(dtype);
        if (code < 0)
        {
            string name = dtype.TorchName().Length != 0 ? dtype.TorchName() : dtype.SafetensorsName();
            code = AddDtype(dtype, name, Encoding.UTF8.GetBytes(name));
        }
        AddRow(nameUtf8, code, shape, slotBytes, offset);
    }

    /// <summary>Adds a tensor whose type is given by its torch name, known to this engine or not.</summary>
    public void Add(ReadOnlySpan<byte> nameUtf8, ReadOnlySpan<byte> torchDtype, ReadOnlySpan<long> shape, long slotBytes, long offset)
    {
        int code = -1;
        for (int i = 0; i < _dtypeNamesUtf8.Count && code < 0; i++)
        {
            code = torchDtype.SequenceEqual(_dtypeNamesUtf8[i]) ? i : -1;
        }
        if (code < 0)
        {
            _ = TensorDtypes.TryParseTorch(torchDtype, out TensorDtype dtype);
            code = AddDtype(dtype, Encoding.UTF8.GetString(torchDtype), torchDtype.ToArray());
        }
        AddRow(nameUtf8, code, shape, slotBytes, offset);
    }

    /// <summary>Adds tensor <paramref name="tensor"/> of <paramref name="source"/> with another place.</summary>
    public void AddFrom(TensorTable source, int tensor, long slotBytes, long offset)
    {
        ArgumentNullException.ThrowIfNull(source);
        TensorDtype dtype = source.GetDtype(tensor);
        if (dtype == TensorDtype.Unknown)
        {
            Add(source.GetNameUtf8(tensor), Encoding.UTF8.GetBytes(source.GetDtypeName(tensor)), source.GetShape(tensor), slotBytes, offset);
        }
        else
        {
            Add(source.GetNameUtf8(tensor), dtype, source.GetShape(tensor), slotBytes, offset);
        }
    }

    /// <summary>Makes the table; the builder can go on and make a longer one.</summary>
    public TensorTable Build()
        => new(_names.ToArray(pinned: true), _nameEnds.ToArray(), _dtypes.ToArray(), [.. _dtypeCodes], [.. _dtypeNames],
            _shapes.ToArray(), _shapeEnds.ToArray(), _dimensions.ToArray(pinned: true), _slotBytes.ToArray(), _offsets.ToArray());

    /// <inheritdoc/>
    public void Dispose()
    {
        _names.Dispose();
        _nameEnds.Dispose();
        _dtypes.Dispose();
        _shapes.Dispose();
        _shapeEnds.Dispose();
        _dimensions.Dispose();
        _slotBytes.Dispose();
        _offsets.Dispose();
    }

    private int AddDtype(TensorDtype dtype, string name, byte[] utf8)
    {
        if (_dtypeCodes.Count == MaxDtypes)
        {
            ThrowHelper.Throw(CheckpointError.WrongShape, $"tensors of more than {MaxDtypes} element types in one table, the next being '{name}'");
        }
        _dtypeCodes.Add(dtype);
        _dtypeNames.Add(name);
        _dtypeNamesUtf8.Add(utf8);
        return _dtypeCodes.Count - 1;
    }

    private void AddRow(ReadOnlySpan<byte> nameUtf8, int dtype, ReadOnlySpan<long> shape, long slotBytes, long offset)
    {
        _names.AddRange(nameUtf8);
        _nameEnds.Add(_names.Count);
        _names.Add(0);
        _dtypes.Add((byte)dtype);
        _shapes.Add(InternShape(shape));
        _slotBytes.Add(slotBytes);
        _offsets.Add(offset);
    }

    private int InternShape(ReadOnlySpan<long> shape)
    {
        if (_lastShape >= 0 && shape.SequenceEqual(ShapeAt(_lastShape)))
        {
            return _lastShape;
        }
        var hash = new HashCode();
        hash.AddBytes(MemoryMarshal.AsBytes(shape));
        int key = hash.ToHashCode();
        if (_shapesByHash.TryGetValue(key, out int known) && shape.SequenceEqual(ShapeAt(known)))
        {
            return _lastShape = known;
        }
        _dimensions.AddRange(shape);
        _shapeEnds.Add(_dimensions.Count);
        _shapesByHash[key] = _shapeEnds.Count - 1;
        return _lastShape = _shapeEnds.Count - 1;
    }

    private ReadOnlySpan<long> ShapeAt(int shape)
    {
        int start = shape == 0 ? 0 : _shapeEnds[shape - 1];
        return _dimensions.Span[start.._shapeEnds[shape]];
    }
}
