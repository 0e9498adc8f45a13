using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Planning;

/// <summary>A tensor's bytes in a unit; never more than one chunk of it, for a unit begins and ends at borders of chunks.</summary>
/// <param name="Tensor">The tensor, in <see cref="TransferPlan.Tensors"/>.</param>
/// <param name="Offset">Bytes of it that come before.</param>
/// <param name="Start">Its first byte in the unit.</param>
/// <param name="LengthBytes">Its bytes, at least 1.</param>
internal readonly record struct UnitPart(int Tensor, long Offset, int Start, int LengthBytes)
{
    /// <summary>The chunk of the tensor that it is.</summary>
    internal int Chunk => (int)(Offset / TensorDigest.ChunkBytes);

    /// <summary>A unit of it alone.</summary>
    /// <param name="unit">The unit that it is a part of.</param>
    internal ReadUnit ToUnit(in ReadUnit unit) => new(unit.Range, unit.OffsetInRange + Start, LengthBytes, Tensor, Offset);
}

/// <summary>The tensors of a unit, in order, for <c>foreach</c>; padding between them and empty ones are left out.</summary>
/// <remarks>Allocates nothing.</remarks>
internal struct UnitParts
{
    private readonly TensorTable _tensors;
    private readonly long _unitStart;
    private readonly int _unitBytes;
    private readonly int _endTensor;
    private int _tensor;
    private long _offset;

    internal UnitParts(TransferPlan plan, in ReadUnit unit)
    {
        ref readonly ReadRange range = ref plan.Ranges[unit.Range];
        _tensors = plan.Tensors;
        _unitStart = range.DestinationOffset + unit.OffsetInRange;
        _unitBytes = unit.LengthBytes;
        _endTensor = range.FirstTensor + range.TensorCount;
        _tensor = unit.FirstTensor;
        _offset = unit.FirstTensorOffset;
    }

    public UnitPart Current { readonly get; private set; }

    public readonly UnitParts GetEnumerator() => this;

    public bool MoveNext()
    {
        for (; _tensor < _endTensor; _tensor++, _offset = 0)
        {
            long start = _tensors.GetOffset(_tensor) + _offset - _unitStart;      // of the next tensor: far beyond the unit, when this one is large
            if (start >= _unitBytes)
            {
                return false;
            }
            int length = (int)Math.Min(_unitBytes - start, _tensors.GetByteLength(_tensor) - _offset);
            if (length != 0)
            {
                Current = new UnitPart(_tensor, _offset, (int)start, length);
                _tensor++;
                _offset = 0;
                return true;
            }
        }
        return false;
    }
}
