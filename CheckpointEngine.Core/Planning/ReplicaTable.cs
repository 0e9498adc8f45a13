using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Planning;

/// <summary>Which owners can stand in for which: those that hold every tensor that is read from another, wherever it lies in their memory.</summary>
/// <remarks>Immutable; any number of threads. Pure: it knows nothing of who is alive.</remarks>
internal sealed class ReplicaTable
{
    private readonly TransferPlan _plan;
    private readonly int[] _first;               // by tensor of the plan, into _places
    private readonly Place[] _places;
    private readonly int[][] _standIns;          // by owner

    // Of one tensor at one owner; Buffer counts over all owners, Source is its index in the metas.
    private readonly record struct Place(int Owner, int Buffer, ulong Address, int Source);

    private ReplicaTable(TransferPlan plan, int[] first, Place[] places)
    {
        _plan = plan;
        _first = first;
        _places = places;
        _standIns = new int[plan.Metas.Owners.Length][];
        for (int owner = 0; owner < _standIns.Length; owner++)
        {
            _standIns[owner] = FindStandIns(owner);
        }
    }

    /// <summary>Looks for replicas.</summary>
    /// <returns>Null when no owner can stand in for another.</returns>
    internal static ReplicaTable? TryMake(TransferPlan plan)
    {
        CheckpointMetas metas = plan.Metas;
        if (metas.Tensors.FindDuplicateName() < 0)
        {
            return null;
        }
        var ofName = new Dictionary<int, List<Place>>();       // by the first tensor of the metas that has the name
        int buffers = 0;
        for (int owner = 0; owner < metas.Owners.Length; owner++)
        {
            foreach (MetasBuffer buffer in metas.Owners[owner].Buffers)
            {
                for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
                {
                    int first = metas.Tensors.IndexOf(metas.Tensors.GetNameUtf8(tensor));
                    if (!ofName.TryGetValue(first, out List<Place>? known))
                    {
                        ofName.Add(first, known = []);
                    }
                    known.Add(new Place(owner, buffers, buffer.Address + (ulong)metas.Tensors.GetOffset(tensor), tensor));
                }
                buffers++;
            }
        }
        var starts = new int[plan.Tensors.Count + 1];
        var places = new List<Place>();
        for (int tensor = 0; tensor < plan.Tensors.Count; tensor++)
        {
            places.AddRange(ofName[metas.Tensors.IndexOf(metas.Tensors.GetNameUtf8(plan.GetSourceTensor(tensor)))]);
            starts[tensor + 1] = places.Count;
        }
        var table = new ReplicaTable(plan, starts, [.. places]);
        return Array.Exists(table._standIns, static owners => owners.Length != 0) ? table : null;
    }

    /// <summary>The owners that hold all that is read from <paramref name="owner"/>, in the order of the metas.</summary>
    internal ReadOnlySpan<int> StandInsOf(int owner) => _standIns[owner];

    /// <summary>Finds an owner that holds other bytes than an earlier one, by the digests in the metas.</summary>
    /// <returns>The owner, the one that it differs from, and the tensor of the plan; null when no two differ, as far as the metas tell.</returns>
    internal (int Owner, int Reference, int Tensor)? FindDifference()
    {
        CheckpointMetas metas = _plan.Metas;
        for (int tensor = 0; tensor < _plan.Tensors.Count; tensor++)
        {
            Place reference = _places[_first[tensor]];
            for (int i = _first[tensor] + 1; i < _first[tensor + 1]; i++)
            {
                DigestAlgorithm algorithm = metas.GetDigestAlgorithm(reference.Source);
                if (algorithm != DigestAlgorithm.None && metas.GetDigestAlgorithm(_places[i].Source) == algorithm
                    && !metas.GetDigest(reference.Source).SequenceEqual(metas.GetDigest(_places[i].Source)))
                {
                    return (_places[i].Owner, reference.Owner, tensor);
                }
            }
        }
        return null;
    }

    /// <summary>Whether <paramref name="other"/> can be read instead of <paramref name="owner"/>.</summary>
    internal bool CanStandIn(int other, int owner) => Array.IndexOf(_standIns[owner], other) >= 0;

    /// <summary>Where an owner has a tensor.</summary>
    /// <returns>False when it does not hold it.</returns>
    internal bool TryFind(int tensor, int owner, out ulong address)
    {
        bool found = TryFind(tensor, owner, out Place place);
        address = place.Address;
        return found;
    }

    /// <summary>Where an owner has the bytes of a unit, if they lie there as they lie in the plan.</summary>
    internal bool TryPlace(in ReadUnit unit, int owner, out ulong address)
    {
        address = 0;
        int buffer = -1;
        foreach (UnitPart part in new UnitParts(_plan, unit))
        {
            if (!TryFind(part.Tensor, owner, out Place place))
            {
                return false;
            }
            ulong from = place.Address + (ulong)part.Offset - (ulong)part.Start;
            if (buffer >= 0 && (buffer != place.Buffer || address != from))
            {
                return false;
            }
            (buffer, address) = (place.Buffer, from);
        }
        return buffer >= 0;
    }

    /// <summary>Whether an owner can stand in for any other that is read.</summary>
    internal bool StandsIn(int owner) => Array.Exists(_standIns, owners => Array.IndexOf(owners, owner) >= 0);

    /// <summary>Everything that may be read from an owner: what the plan reads from it, and what it may be read for instead of others.</summary>
    internal List<(ulong Address, ulong LengthBytes)> RunsOf(int owner)
    {
        var places = new List<(int Buffer, ulong Address, ulong LengthBytes)>();
        foreach (ReadRange range in _plan.Ranges)
        {
            if (range.Owner != owner && !CanStandIn(owner, range.Owner))
            {
                continue;
            }
            for (int tensor = range.FirstTensor; tensor < range.FirstTensor + range.TensorCount; tensor++)
            {
                if (_plan.Tensors.GetByteLength(tensor) != 0 && TryFind(tensor, owner, out Place place))
                {
                    places.Add((place.Buffer, place.Address, (ulong)_plan.Tensors.GetByteLength(tensor)));
                }
            }
        }
        places.Sort();
        var runs = new List<(ulong Address, ulong LengthBytes)>();
        int buffer = -1;
        foreach ((int next, ulong address, ulong lengthBytes) in places)
        {
            if (next == buffer)
            {
                runs[^1] = (runs[^1].Address, Math.Max(runs[^1].LengthBytes, address + lengthBytes - runs[^1].Address));
                continue;
            }
            runs.Add((address, lengthBytes));
            buffer = next;
        }
        return runs;
    }

    private bool TryFind(int tensor, int owner, out Place place)
    {
        for (int i = _first[tensor]; i < _first[tensor + 1]; i++)
        {
            if (_places[i].Owner == owner)
            {
                place = _places[i];
                return true;
            }
        }
        place = default;
        return false;
    }

    private int[] FindStandIns(int owner)
    {
        List<int>? common = null;
        foreach (ReadRange range in _plan.Ranges)
        {
            for (int tensor = range.FirstTensor; range.Owner == owner && tensor < range.FirstTensor + range.TensorCount; tensor++)
            {
                if (_plan.Tensors.GetByteLength(tensor) == 0)
                {
                    continue;
                }
                if (common is null)
                {
                    common = [];
                    for (int i = _first[tensor]; i < _first[tensor + 1]; i++)
                    {
                        if (_places[i].Owner != owner && !common.Contains(_places[i].Owner))
                        {
                            common.Add(_places[i].Owner);
                        }
                    }
                }
                for (int i = common.Count - 1; i >= 0; i--)
                {
                    if (!TryFind(tensor, common[i], out Place _))
                    {
                        common.RemoveAt(i);
                    }
                }
                if (common.Count == 0)
                {
                    return [];
                }
            }
        }
        return common is null ? [] : [.. common.Order()];
    }
}
