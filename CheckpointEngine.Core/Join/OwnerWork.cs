using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>What is still to be read from one owner, in the order of its memory.</summary>
internal sealed class OwnerWork : SourceWork
{
    private readonly Lock _lock = new();
    private readonly Stack<ReadUnit> _givenBack = new();
    private readonly TransferPlan _plan;
    private readonly IJoinDestination _destination;
    private readonly DigestVerifier? _awaited;   // a unit may be taken when it has its digests
    private readonly ReadUnit[]? _units;         // null: all of the owner's, cut by the cursor
    private ReadUnitCursor _cursor;
    private int _next;                           // in _units
    private long _remainingBytes;

    /// <param name="plan">The plan.</param>
    /// <param name="owner">The owner.</param>
    /// <param name="destination">Says what there is room for.</param>
    /// <param name="units">What is to be read, in order; null for all of it.</param>
    /// <param name="awaited">Units are kept back until it knows what they should be; null: they are not.</param>
    internal OwnerWork(TransferPlan plan, int owner, IJoinDestination destination, ReadUnit[]? units = null, DigestVerifier? awaited = null)
    {
        _awaited = awaited;
        _plan = plan;
        _destination = destination;
        _units = units;
        if (units is not null)
        {
            _remainingBytes = units.Sum(static unit => (long)unit.LengthBytes);
            return;
        }
        _cursor = new ReadUnitCursor(plan, owner);
        foreach (ReadRange range in plan.Ranges)
        {
            _remainingBytes += range.Owner == owner ? range.LengthBytes : 0;
        }
    }

    internal override long RemainingBytes => Volatile.Read(ref _remainingBytes);

    /// <summary>Takes a unit; false when there is none, or no room for the next one yet.</summary>
    internal bool TryTake(out ReadUnit unit) => TryTake(out unit, out _);

    internal override bool TryTake(out ReadUnit unit, out ulong address)
    {
        address = 0;
        lock (_lock)
        {
            if (!TryNext(out unit))
            {
                return false;
            }
            if (!MayGo(unit))
            {
                _givenBack.Push(unit);
                return false;
            }
            _remainingBytes -= unit.LengthBytes;
            address = _plan.Ranges[unit.Range].RemoteAddress + (ulong)unit.OffsetInRange;
            return true;
        }
    }

    /// <summary>Takes a unit for an owner that stands in for this one; one that does not lie in one piece there is cut.</summary>
    internal bool TryTakeFor(int owner, ReplicaTable replicas, out ReadUnit unit, out ulong address)
    {
        lock (_lock)
        {
            address = 0;
            while (TryNext(out unit))
            {
                if (!MayGo(unit))
                {
                    _givenBack.Push(unit);
                    return false;
                }
                if (replicas.TryPlace(unit, owner, out address))
                {
                    _remainingBytes -= unit.LengthBytes;
                    return true;
                }
                Cut(unit);
            }
            return false;
        }
    }

    // Under the lock: one unit for each of its tensors, which every holder of them can serve.
    private void Cut(in ReadUnit unit)
    {
        _remainingBytes -= unit.LengthBytes;
        foreach (UnitPart part in new UnitParts(_plan, unit))
        {
            _givenBack.Push(part.ToUnit(unit));
            _remainingBytes += part.LengthBytes;
        }
    }

    private bool MayGo(in ReadUnit unit) => _destination.HasRoom(unit) && _awaited?.Knows(unit) != false;

    internal override bool HasUnitToTake
    {
        get
        {
            lock (_lock)
            {
                if (!TryNext(out ReadUnit unit))
                {
                    return false;
                }
                _givenBack.Push(unit);
                return MayGo(unit);
            }
        }
    }

    private bool TryNext(out ReadUnit unit)
    {
        do
        {
            if (!_givenBack.TryPop(out unit) && !TryCut(out unit))
            {
                _remainingBytes = 0;        // padding between two units is in no unit
                return false;
            }
        }
        while (unit.LengthBytes == 0);      // nothing but empty tensors
        return true;
    }

    private bool TryCut(out ReadUnit unit)
    {
        if (_units is null)
        {
            return _cursor.TryTake(out unit);
        }
        bool any = _next < _units.Length;
        unit = any ? _units[_next++] : default;
        return any;
    }

    internal override void GiveBack(in ReadUnit unit)
    {
        lock (_lock)
        {
            _givenBack.Push(unit);
            _remainingBytes += unit.LengthBytes;
        }
    }
}
