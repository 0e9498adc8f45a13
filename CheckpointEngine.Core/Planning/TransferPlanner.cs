using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Planning;

/// <summary>
/// Makes the plan of a join: pure, no I/O. Neighbouring tensors become long contiguous runs, padding between them included; a tensor that
/// several owners hold is read from the one with the least to do.
/// </summary>
public static class TransferPlanner
{
    // Reading through a gap costs its bytes, ending the run costs a request. Slots are padded by less than 256 bytes; a gap beyond a page is
    // either a hostile aligned_size or something nobody wants to receive.
    private const long LargestGapReadThrough = 4096;

    // Where a run ends, the next tensor starts at a fresh boundary, as in the buffers that checkpoint-engine packs.
    private const long RunAlignment = 256;

    // What the address space of a process holds. Beyond, sums of lengths and paddings, and the number of chunks, would overflow.
    private const long MostBytes = 1L << 47;

    /// <summary>Plans the reading of what <paramref name="filter"/> takes.</summary>
    /// <param name="metas">Who holds what.</param>
    /// <param name="filter">What is wanted.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>: nothing matches. <see cref="CheckpointError.InvalidData"/>: two owners tell of one name different tensors, or the tensors have more than 2^47 bytes.</exception>
    public static TransferPlan Plan(CheckpointMetas metas, TensorFilter filter)
    {
        ArgumentNullException.ThrowIfNull(metas);
        ArgumentNullException.ThrowIfNull(filter);
        TensorTable source = metas.Tensors;
        ThrowIfTooLarge(source);
        bool[]? wanted = Choose(metas, filter);
        if (wanted is null && CanKeepLayout(metas))
        {
            return PlanAsTheyAre(metas);
        }

        var ownerBytes = new long[metas.Owners.Length];
        var buffers = new List<PlannedBuffer>();
        var ranges = new List<ReadRange>();
        using var sourceTensors = new NativeColumnOwner<int>();
        using var table = new TensorTableBuilder();
        for (int o = 0; o < metas.Owners.Length; o++)
        {
            MetasOwner owner = metas.Owners[o];
            for (int b = 0; b < owner.Buffers.Length; b++)
            {
                PlanBuffer(source, wanted, o, b, owner.Buffers[b], buffers, ranges, ref sourceTensors.Column, table, ownerBytes);
            }
        }
        if (table.Count == 0)
        {
            ThrowHelper.Throw(CheckpointError.NotFound, source.Count == 0
                ? "plan: the metas hold no tensor"
                : filter.Only is { Count: > 0 } only
                ? $"plan: none of the {only.Count:N0} tensors to be filled, {TensorNames.Quote(only, 0)} the first, is among the {source.Count:N0} of the metas that the patterns take"
                : $"plan: none of the {source.Count:N0} tensors matches the include and exclude patterns; names are case-sensitive, * matches dots");
        }
        return new TransferPlan(metas, table.Build(), sourceTensors.Column.ToArray(), [.. buffers], [.. ranges], ownerBytes);
    }

    // Whether every buffer is one run, and the buffers of the owners follow each other in the table: then the owners' layout is ours.
    private static bool CanKeepLayout(CheckpointMetas metas)
    {
        TensorTable source = metas.Tensors;
        int next = 0;
        foreach (MetasOwner owner in metas.Owners)
        {
            foreach (MetasBuffer buffer in owner.Buffers)
            {
                if (buffer.FirstTensor != next)
                {
                    return false;
                }
                next += buffer.TensorCount;
                for (int tensor = buffer.FirstTensor; tensor < next; tensor++)
                {
                    if (source.GetSlotBytes(tensor) - source.GetByteLength(tensor) > LargestGapReadThrough)
                    {
                        return false;
                    }
                }
            }
        }
        return next == source.Count && next != 0;
    }

    private static TransferPlan PlanAsTheyAre(CheckpointMetas metas)
    {
        TensorTable source = metas.Tensors;
        var ownerBytes = new long[metas.Owners.Length];
        var buffers = new List<PlannedBuffer>();
        var ranges = new List<ReadRange>();
        for (int o = 0; o < metas.Owners.Length; o++)
        {
            for (int b = 0; b < metas.Owners[o].Buffers.Length; b++)
            {
                MetasBuffer buffer = metas.Owners[o].Buffers[b];
                if (buffer.TensorCount == 0)
                {
                    continue;
                }
                for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
                {
                    ownerBytes[o] += source.GetByteLength(tensor);
                }
                int last = buffer.FirstTensor + buffer.TensorCount - 1;
                long length = source.GetOffset(last) + source.GetByteLength(last);
                if (length != 0)
                {
                    ranges.Add(new ReadRange(o, buffer.Address, length, buffers.Count, 0, buffer.FirstTensor, buffer.TensorCount));
                }
                buffers.Add(new PlannedBuffer(o, b, source.GetOffset(last) + source.GetSlotBytes(last), buffer.FirstTensor, buffer.TensorCount));
            }
        }
        return new TransferPlan(metas, source, null, [.. buffers], [.. ranges], ownerBytes);
    }

    private static void PlanBuffer(TensorTable source, bool[]? wanted, int owner, int sourceBuffer, in MetasBuffer buffer,
        List<PlannedBuffer> buffers, List<ReadRange> ranges, ref NativeColumn<int> sourceTensors, TensorTableBuilder table, long[] ownerBytes)
    {
        int first = table.Count;
        int end = buffer.FirstTensor + buffer.TensorCount;
        long used = 0;                       // of the destination buffer
        int tensor = buffer.FirstTensor;
        while (tensor < end)
        {
            if (wanted is not null && !wanted[tensor])
            {
                tensor++;
                continue;
            }
            int runFirst = table.Count;
            long runStart = used;
            long sourceStart = source.GetOffset(tensor);
            long length = 0;                 // of the run, without the padding behind its last tensor
            while (tensor < end && (wanted is null || wanted[tensor]))
            {
                long bytes = source.GetByteLength(tensor);
                long slot = source.GetSlotBytes(tensor);
                long offset = source.GetOffset(tensor) - sourceStart;
                bool more = tensor + 1 < end && (wanted is null || wanted[tensor + 1]) && slot - bytes <= LargestGapReadThrough;
                long ownSlot = more ? slot : AlignUp(runStart + offset + bytes, RunAlignment) - (runStart + offset);
                table.AddFrom(source, tensor, ownSlot, runStart + offset);
                sourceTensors.Add(tensor);
                ownerBytes[owner] += bytes;
                length = offset + bytes;
                used = runStart + offset + ownSlot;
                tensor++;
                if (!more)
                {
                    break;
                }
            }
            if (length != 0)
            {
                ranges.Add(new ReadRange(owner, buffer.Address + (ulong)sourceStart, length, buffers.Count, runStart, runFirst, table.Count - runFirst));
            }
        }
        if (table.Count != first)
        {
            buffers.Add(new PlannedBuffer(owner, sourceBuffer, used, first, table.Count - first));
        }
    }

    private static void ThrowIfTooLarge(TensorTable source)
    {
        long bytes = 0;
        for (int tensor = 0; tensor < source.Count; tensor++)
        {
            if (source.GetByteLength(tensor) > MostBytes - bytes)
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"plan: the tensors up to '{source.GetName(tensor)}' have more than {MostBytes:N0} bytes, more than any process can hold");
            }
            bytes += source.GetByteLength(tensor);
        }
    }

    // Null: every tensor is wanted and no name occurs twice, the common case.
    private static bool[]? Choose(CheckpointMetas metas, TensorFilter filter)
    {
        TensorTable tensors = metas.Tensors;
        bool duplicates = tensors.FindDuplicateName() >= 0;
        if (filter.TakesAll && !duplicates)
        {
            return null;
        }
        var wanted = new bool[tensors.Count];
        for (int tensor = 0; tensor < wanted.Length; tensor++)
        {
            wanted[tensor] = filter.TakesAll || filter.Takes(tensors.GetNameUtf8(tensor));
        }
        if (duplicates)
        {
            ChooseReplicas(metas, wanted);
        }
        return wanted;
    }

    // Holders of a tensor are met in the order of the metas; each tensor goes to the holder with the fewest bytes so far, singly held ones first.
    private static void ChooseReplicas(CheckpointMetas metas, bool[] wanted)
    {
        TensorTable tensors = metas.Tensors;
        var ownerOf = new int[tensors.Count];
        for (int o = 0; o < metas.Owners.Length; o++)
        {
            foreach (MetasBuffer buffer in metas.Owners[o].Buffers)
            {
                ownerOf.AsSpan(buffer.FirstTensor, buffer.TensorCount).Fill(o);
            }
        }
        var load = new long[metas.Owners.Length];
        var replicas = new Dictionary<int, List<int>>();
        for (int tensor = 0; tensor < wanted.Length; tensor++)
        {
            int first = tensors.IndexOf(tensors.GetNameUtf8(tensor));
            if (!wanted[tensor] || first == tensor)
            {
                continue;
            }
            if (tensors.GetDtype(tensor) != tensors.GetDtype(first) || !tensors.GetShape(tensor).SequenceEqual(tensors.GetShape(first)))
            {
                ThrowHelper.Throw(CheckpointError.InvalidData,
                    $"plan: tensor '{tensors.GetName(tensor)}' is {Describe(tensors, first)} on rank {metas.Owners[ownerOf[first]].Rank} and {Describe(tensors, tensor)} on rank {metas.Owners[ownerOf[tensor]].Rank}; these owners do not hold the same checkpoint");
            }
            if (!replicas.TryGetValue(first, out List<int>? list))
            {
                replicas.Add(first, list = [first]);
            }
            list.Add(tensor);
            wanted[tensor] = false;
        }
        foreach (int first in replicas.Keys)
        {
            wanted[first] = false;
        }
        for (int tensor = 0; tensor < wanted.Length; tensor++)
        {
            load[ownerOf[tensor]] += wanted[tensor] ? tensors.GetByteLength(tensor) : 0;
        }
        foreach (List<int> holders in replicas.Values)
        {
            int best = holders[0];
            foreach (int candidate in holders)
            {
                best = load[ownerOf[candidate]] < load[ownerOf[best]] ? candidate : best;
            }
            wanted[best] = true;
            load[ownerOf[best]] += tensors.GetByteLength(best);
        }
    }

    private static string Describe(TensorTable tensors, int tensor) => $"{tensors.GetDtypeName(tensor)} [{string.Join(',', tensors.GetShape(tensor).ToArray())}]";

    private static long AlignUp(long value, long alignment) => (value + alignment - 1) / alignment * alignment;
}
