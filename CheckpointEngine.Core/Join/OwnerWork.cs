using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>What is still to be read from one owner. Lanes take units from it and give back those that they could not finish.</summary>
/// <remarks>Any number of threads; a unit is 4 MiB, so the lock is taken a thousand times a second at most.</remarks>
internal sealed class OwnerWork
{
    private readonly Lock _lock = new();
    private readonly Stack<ReadUnit> _givenBack = new();
    private ReadUnitCursor _cursor;
    private long _remainingBytes;

    internal OwnerWork(TransferPlan plan, int owner)
    {
        _cursor = new ReadUnitCursor(plan, owner);
        foreach (ReadRange range in plan.Ranges)
        {
            _remainingBytes += range.Owner == owner ? range.LengthBytes : 0;
        }
    }

    /// <summary>Bytes that no lane has taken; 0 exactly when there is none.</summary>
    internal long RemainingBytes => Volatile.Read(ref _remainingBytes);

    /// <summary>Lanes at work on this owner; under the lock of the run.</summary>
    internal int Lanes { get; set; }

    internal bool TryTake(out ReadUnit unit)
    {
        lock (_lock)
        {
            do
            {
                if (!_givenBack.TryPop(out unit) && !_cursor.TryTake(out unit))
                {
                    _remainingBytes = 0;        // padding between two units is in no unit
                    return false;
                }
            }
            while (unit.LengthBytes == 0);      // nothing but empty tensors
            _remainingBytes -= unit.LengthBytes;
            return true;
        }
    }

    internal void GiveBack(in ReadUnit unit)
    {
        lock (_lock)
        {
            _givenBack.Push(unit);
            _remainingBytes += unit.LengthBytes;
        }
    }
}
