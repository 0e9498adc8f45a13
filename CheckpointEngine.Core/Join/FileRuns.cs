using CheckpointEngine.Checkpoints;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>A piece of a unit that lies in one piece in its shard.</summary>
/// <param name="Start">Its first byte in the unit.</param>
/// <param name="End">The byte behind its last one.</param>
/// <param name="FileOffset">Where it lies in the shard.</param>
internal readonly record struct FileRun(int Start, int End, long FileOffset);

/// <summary>The pieces of a unit as its shard has them: neighbours in a buffer are neighbours in the file too, but for the padding of slots.</summary>
/// <remarks>Allocates nothing.</remarks>
internal struct FileRuns
{
    private readonly TransferPlan _plan;
    private readonly long[] _fileOffsets;
    private readonly int _unitBytes;
    private readonly int _endTensor;
    private readonly long _unitStart;
    private int _tensor;
    private long _offset;

    /// <param name="plan">The plan.</param>
    /// <param name="fileOffsets">Where each tensor of the plan lies in its shard.</param>
    /// <param name="unit">The unit.</param>
    internal FileRuns(TransferPlan plan, long[] fileOffsets, in ReadUnit unit)
    {
        ref readonly ReadRange range = ref plan.Ranges[unit.Range];
        _plan = plan;
        _fileOffsets = fileOffsets;
        _unitBytes = unit.LengthBytes;
        _endTensor = range.FirstTensor + range.TensorCount;
        _unitStart = range.DestinationOffset + unit.OffsetInRange;
        _tensor = unit.FirstTensor;
        _offset = unit.FirstTensorOffset;
    }

    /// <summary>The piece that <see cref="MoveNext"/> found.</summary>
    public FileRun Current { readonly get; private set; }

    public readonly FileRuns GetEnumerator() => this;

    public bool MoveNext()
    {
        TensorTable tensors = _plan.Tensors;
        int start = -1;
        int end = 0;
        long file = 0;
        for (; _tensor < _endTensor; _tensor++, _offset = 0)
        {
            long startInUnit = tensors.GetOffset(_tensor) + _offset - _unitStart;      // of the next tensor: far beyond the unit, when this one is large
            if (startInUnit >= _unitBytes)
            {
                break;
            }
            int length = (int)Math.Min(_unitBytes - startInUnit, tensors.GetByteLength(_tensor) - _offset);
            if (length == 0)
            {
                continue;
            }
            if (start >= 0 && (startInUnit != end || _fileOffsets[_tensor] + _offset != file + (end - start)))
            {
                break;
            }
            if (start < 0)
            {
                start = (int)startInUnit;
                file = _fileOffsets[_tensor] + _offset;
            }
            end = (int)startInUnit + length;
        }
        Current = new FileRun(start, end, file);
        return start >= 0;
    }
}
