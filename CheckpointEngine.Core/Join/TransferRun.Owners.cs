using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

// Which owner a lane reads next, and which unit of it: its own, or one of an owner that it stands in for.
internal sealed partial class TransferRun
{
    /// <summary>Chooses the owner that a lane should serve next; null when there is nothing left for it to do.</summary>
    internal int? TakeOwner(LaneWorker worker)
    {
        lock (_lock)
        {
            if (_stopping || worker.IsRetired)
            {
                return null;
            }
            int best = -1;
            long most = 0;
            bool noLaneFree = false;
            for (int owner = 0; owner < _works.Length; owner++)
            {
                if (_works[owner] is SourceWork work && IsLive(owner) && work.Lanes < work.MostLanes && (work.TakeableBytes + work.Lanes) / (work.Lanes + 1) > most && work.HasUnitToTake)
                {
                    if (!_links[owner]!.HasLaneFree)
                    {
                        noLaneFree = true;
                        continue;
                    }
                    most = (work.TakeableBytes + work.Lanes) / (work.Lanes + 1);
                    best = owner;
                }
            }
            if (best < 0 && _replicas is not null)
            {
                best = FindStandIn(_replicas, ref noLaneFree);
            }
            if (best < 0)
            {
                if (noLaneFree)
                {
                    Retire(worker);
                }
                return null;
            }
            _works[best]!.Lanes++;
            return best;
        }
    }

    // Under the lock: who can be read for the owner that has the most left, and has the fewest lanes.
    private int FindStandIn(OwnerReplicas replicas, ref bool noLaneFree)
    {
        int best = -1;
        long most = 0;
        for (int owner = 0; owner < _works.Length; owner++)
        {
            if (_works[owner] is not SourceWork work || work.RemainingBytes <= most || !work.HasUnitToTake)
            {
                continue;
            }
            foreach (int other in replicas.Table.StandInsOf(owner))
            {
                if (!replicas.IsLive(other))
                {
                    continue;
                }
                if (!_links[other]!.HasLaneFree)
                {
                    noLaneFree = true;
                }
                else if (most != work.RemainingBytes || _works[other]!.Lanes < _works[best]!.Lanes)
                {
                    (best, most) = (other, work.RemainingBytes);
                }
            }
        }
        return best;
    }

    /// <summary>Takes a unit to be read from <paramref name="owner"/>: of its own, or of one that it stands in for.</summary>
    /// <param name="owner">Who is read.</param>
    /// <param name="unit">The unit.</param>
    /// <param name="from">Where it goes back to if it cannot be read.</param>
    /// <param name="address">Where the owner has it.</param>
    internal bool TryTake(int owner, out ReadUnit unit, out SourceWork from, out ulong address)
    {
        from = _works[owner]!;
        if (from.TryTake(out unit, out address))
        {
            return true;
        }
        if (_replicas is null)
        {
            return false;
        }
        long most = 0;
        int victim = -1;
        for (int other = 0; other < _works.Length; other++)
        {
            if (other != owner && _works[other] is { HasUnitToTake: true } work && work.RemainingBytes > most && _replicas.Table.CanStandIn(owner, other))
            {
                (most, victim) = (work.RemainingBytes, other);
            }
        }
        if (victim < 0)
        {
            return false;
        }
        from = _works[victim]!;
        return ((OwnerWork)from).TryTakeFor(owner, _replicas.Table, out unit, out address);
    }

    /// <summary>Goes on without an owner if another stands in for it; else fails.</summary>
    internal void Lose(int owner, Exception reason)
    {
        if (owner >= _owners)
        {
            LoseRelay(owner, reason);
        }
        else if (_replicas?.TryDrop(owner, reason) == true)
        {
            RoomCame();
        }
        else
        {
            Fail(reason);
        }
    }

    /// <summary>Whether an owner is still read from.</summary>
    internal bool IsLive(int owner) => owner >= _owners ? IsLiveRelay(owner) : _replicas?.IsLive(owner) != false;

    /// <summary>Whether another may be read instead of a source whose bytes are wrong.</summary>
    internal bool MayDoWithout(int owner) => owner >= _owners || _replicas is not null;

    // Anywhere, for a lane that is free.
    private bool HasUnitToTake()
    {
        for (int owner = 0; owner < _works.Length; owner++)
        {
            if (_works[owner] is { HasUnitToTake: true } work && work.Lanes < work.MostLanes && (owner < _owners || IsLiveRelay(owner)))
            {
                return true;
            }
        }
        return false;
    }

    private bool HasUnitFor(int owner)
    {
        if (_works[owner] is { HasUnitToTake: true })
        {
            return true;
        }
        for (int other = 0; _replicas is not null && other < _works.Length; other++)
        {
            if (_works[other] is { HasUnitToTake: true } && _replicas.Table.CanStandIn(owner, other))
            {
                return true;
            }
        }
        return false;
    }

    // Under the lock. Who would find every pair of devices taken need not be started.
    private bool HasWorkForAnother()
    {
        for (int owner = 0; owner < _works.Length; owner++)
        {
            if (_works[owner] is { RemainingBytes: > 0 } work && ((IsLive(owner) && work.Lanes < work.MostLanes && _links[owner]!.HasLaneFree) || HasStandInFree(owner)))
            {
                return true;
            }
        }
        return false;
    }

    private bool HasStandInFree(int owner)
    {
        foreach (int other in _replicas is null || owner >= _owners ? [] : _replicas.Table.StandInsOf(owner))
        {
            if (_replicas!.IsLive(other) && _links[other]!.HasLaneFree)
            {
                return true;
            }
        }
        return false;
    }
}
