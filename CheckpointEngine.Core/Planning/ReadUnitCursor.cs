using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Planning;

/// <summary>Cuts the runs of one owner into units, in order.</summary>
/// <remarks>One thread at a time. Allocates nothing: a plan of a terabyte has a quarter of a million units, and they are never all there.</remarks>
internal struct ReadUnitCursor
{
    private readonly TransferPlan _plan;
    private readonly int _endRange;
    private int _range;
    private int _tensor;
    private long _tensorOffset;

    /// <summary>Starts at the first run of <paramref name="owner"/>.</summary>
    internal ReadUnitCursor(TransferPlan plan, int owner)
    {
        _plan = plan;
        ReadOnlySpan<ReadRange> ranges = plan.Ranges;
        _range = 0;
        while (_range < ranges.Length && ranges[_range].Owner != owner)
        {
            _range++;
        }
        _endRange = _range;
        while (_endRange < ranges.Length && ranges[_endRange].Owner == owner)
        {
            _endRange++;
        }
        _tensor = _range < _endRange ? ranges[_range].FirstTensor : 0;
    }

    /// <summary>Whether nothing is left.</summary>
    internal readonly bool IsAtEnd => _range == _endRange;

    /// <summary>Takes the next unit.</summary>
    internal bool TryTake(out ReadUnit unit)
    {
        if (_range == _endRange)
        {
            unit = default;
            return false;
        }
        ref readonly ReadRange range = ref _plan.Ranges[_range];
        TensorTable tensors = _plan.Tensors;
        int endTensor = range.FirstTensor + range.TensorCount;
        while (_tensor + 1 < endTensor && tensors.GetByteLength(_tensor) == 0)
        {
            _tensor++;        // an empty tensor's padding before a whole chunk would make a unit longer than a lane's staging memory
        }
        int firstTensor = _tensor;
        long firstOffset = _tensorOffset;
        long start = tensors.GetOffset(_tensor) + _tensorOffset - range.DestinationOffset;
        long end = start;
        while (_tensor < endTensor)
        {
            long tensorStart = tensors.GetOffset(_tensor) - range.DestinationOffset;
            long length = tensors.GetByteLength(_tensor);
            long chunk = Math.Min(TensorDigest.ChunkBytes, length - _tensorOffset);
            long chunkEnd = tensorStart + _tensorOffset + chunk;
            if (end != start && chunkEnd - start > TensorDigest.ChunkBytes)
            {
                break;
            }
            end = Math.Max(end, chunkEnd);
            _tensorOffset += chunk;
            if (_tensorOffset == length)
            {
                _tensor++;
                _tensorOffset = 0;
            }
        }
        unit = new ReadUnit(_range, start, (int)(end - start), firstTensor, firstOffset);
        if (_tensor == endTensor)
        {
            _range++;
            _tensor = _range < _endRange ? _plan.Ranges[_range].FirstTensor : 0;
            _tensorOffset = 0;
        }
        return true;
    }
}
