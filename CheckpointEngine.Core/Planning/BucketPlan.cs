using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Planning;

/// <summary>
/// A plan cut into buckets: groups of whole tensors that are read one after the other into memory of a bounded size. Takes from up to four owners in
/// turn, by what each has left, so that they are read side by side.
/// </summary>
internal sealed class BucketPlan
{
    // As many owners as the lanes of a small join; with more, each bucket would mean new connections.
    private const int OwnersAtOnce = 4;

    private const long Alignment = 256;

    private readonly int[] _bucketOfRange;
    private readonly long[] _offsetOfRange;
    private readonly long[] _sizes;
    private readonly int[] _units;
    private readonly int[] _firstEntry;          // per bucket, and the end
    private readonly Entry[] _entries;

    /// <summary>A tensor in its bucket.</summary>
    /// <param name="Tensor">Index in the plan's tensors.</param>
    /// <param name="Owner">Index of the owner that it comes from.</param>
    /// <param name="Offset">Bytes from the bucket's start.</param>
    internal readonly record struct Entry(int Tensor, int Owner, long Offset);

    /// <summary>Cuts a plan.</summary>
    /// <param name="plan">What is read.</param>
    /// <param name="bucketBytes">The size of a bucket; one that holds a larger tensor holds nothing else.</param>
    internal BucketPlan(TransferPlan plan, long bucketBytes)
    {
        List<List<(int Owner, int First, int Next)>> buckets = Group(plan, bucketBytes);
        var ranges = new List<(ReadRange Range, int Bucket, long Offset)>();
        var entries = new List<Entry>(plan.Tensors.Count);
        _sizes = new long[buckets.Count];
        _firstEntry = new int[buckets.Count + 1];
        int[] rangeOf = RangeOfTensors(plan);
        for (int bucket = 0; bucket < buckets.Count; bucket++)
        {
            long end = 0;
            foreach ((int owner, int first, int next) in buckets[bucket])
            {
                for (int from = first; from < next;)
                {
                    int to = from + 1;
                    while (to < next && rangeOf[to] == rangeOf[from])
                    {
                        to++;
                    }
                    long start = (end + Alignment - 1) / Alignment * Alignment;
                    for (int tensor = from; tensor < to; tensor++)
                    {
                        entries.Add(new Entry(tensor, owner, start + (rangeOf[from] < 0 ? 0 : plan.Tensors.GetOffset(tensor) - plan.Tensors.GetOffset(from))));
                    }
                    if (rangeOf[from] >= 0 && plan.Ranges[rangeOf[from]].Cut(plan.Tensors, from, to) is { LengthBytes: > 0 } part)
                    {
                        ranges.Add((part, bucket, start));
                        end = start + part.LengthBytes;
                    }
                    from = to;
                }
            }
            _sizes[bucket] = end;
            _firstEntry[bucket + 1] = entries.Count;
        }
        _entries = [.. entries];

        (ReadRange Range, int Bucket, long Offset)[] byOwner = [.. ranges.OrderBy(range => range.Range.Owner)];     // stable: buckets stay in order
        _bucketOfRange = [.. byOwner.Select(range => range.Bucket)];
        _offsetOfRange = [.. byOwner.Select(range => range.Offset)];
        Plan = plan.WithRanges([.. byOwner.Select(range => range.Range)]);
        _units = CountUnits();
        for (int bucket = 0; bucket < Count; bucket++)
        {
            LargestBytes = Math.Max(LargestBytes, _sizes[bucket]);
            MostTensors = Math.Max(MostTensors, _firstEntry[bucket + 1] - _firstEntry[bucket]);
        }
    }

    /// <summary>The plan, its runs cut at the borders of buckets.</summary>
    internal TransferPlan Plan { get; }

    /// <summary>Number of buckets.</summary>
    internal int Count => _sizes.Length;

    /// <summary>Bytes of the largest.</summary>
    internal long LargestBytes { get; }

    /// <summary>The most tensors in one.</summary>
    internal int MostTensors { get; }

    internal int BucketOf(in ReadUnit unit) => _bucketOfRange[unit.Range];

    /// <summary>Bytes from its bucket's start to a unit's.</summary>
    internal long OffsetOf(in ReadUnit unit) => _offsetOfRange[unit.Range] + unit.OffsetInRange;

    internal long SizeOf(int bucket) => _sizes[bucket];

    /// <summary>Number of units that fill a bucket.</summary>
    internal int UnitsOf(int bucket) => _units[bucket];

    internal ReadOnlySpan<Entry> TensorsOf(int bucket) => _entries.AsSpan(_firstEntry[bucket].._firstEntry[bucket + 1]);

    // For each bucket the tensors that each owner gives to it, which follow each other in the plan.
    private static List<List<(int Owner, int First, int Next)>> Group(TransferPlan plan, long bucketBytes)
    {
        var buckets = new List<List<(int Owner, int First, int Next)>>();
        var waiting = new Queue<OwnerPart>(PartsOf(plan));
        var active = new List<OwnerPart>();
        long room = 0;
        List<(int, int, int)>? current = null;
        while (true)
        {
            while (active.Count < OwnersAtOnce && waiting.TryDequeue(out OwnerPart? part))
            {
                active.Add(part);
            }
            if (active.Count == 0)
            {
                Close();
                return buckets;
            }
            OwnerPart next = active[0];
            foreach (OwnerPart candidate in active)
            {
                next = candidate.Share < next.Share ? candidate : next;
            }
            long bytes = SizeInBucket(plan.Tensors, next.Next);
            if (current is null || (bytes > room && room != bucketBytes))
            {
                Close();
                current = [];
                room = bucketBytes;
            }
            room -= Math.Min(room, bytes);
            next.Take(plan.Tensors);
            if (next.Next == next.End)
            {
                Note(next);
                active.Remove(next);
            }
        }

        void Close()
        {
            if (current is null)
            {
                return;
            }
            active.ForEach(Note);
            buckets.Add(current);
        }

        void Note(OwnerPart part)
        {
            if (part.Next != part.Noted)
            {
                current!.Add((part.Owner, part.Noted, part.Next));
                part.Noted = part.Next;
            }
        }
    }

    private sealed class OwnerPart(int owner, int first, int end, long totalBytes)
    {
        private long _takenBytes;

        internal int Owner => owner;

        internal int End => end;

        internal int Next { get; private set; } = first;

        internal int Noted { get; set; } = first;

        internal double Share => totalBytes == 0 ? 0 : _takenBytes / (double)totalBytes;

        internal void Take(TensorTable tensors) => _takenBytes += tensors.GetByteLength(Next++);
    }

    private static IEnumerable<OwnerPart> PartsOf(TransferPlan plan)
    {
        PlannedBuffer[] buffers = plan.Buffers.ToArray();
        for (int i = 0; i < buffers.Length;)
        {
            int last = i;
            while (last + 1 < buffers.Length && buffers[last + 1].Owner == buffers[i].Owner)
            {
                last++;
            }
            yield return new OwnerPart(buffers[i].Owner, buffers[i].FirstTensor, buffers[last].FirstTensor + buffers[last].TensorCount, plan.OwnerBytes[buffers[i].Owner]);
            i = last + 1;
        }
    }

    private static long SizeInBucket(TensorTable tensors, int tensor)
        => (Math.Max(tensors.GetByteLength(tensor), tensors.GetSlotBytes(tensor)) + Alignment - 1) / Alignment * Alignment;

    // -1 for an empty tensor that lies in no run.
    private static int[] RangeOfTensors(TransferPlan plan)
    {
        var rangeOf = new int[plan.Tensors.Count];
        Array.Fill(rangeOf, -1);
        for (int range = 0; range < plan.Ranges.Length; range++)
        {
            rangeOf.AsSpan(plan.Ranges[range].FirstTensor, plan.Ranges[range].TensorCount).Fill(range);
        }
        return rangeOf;
    }

    private int[] CountUnits()
    {
        var units = new int[Count];
        for (int owner = 0; owner < Plan.Metas.Owners.Length; owner++)
        {
            var cursor = new ReadUnitCursor(Plan, owner);
            while (cursor.TryTake(out ReadUnit unit))
            {
                units[BucketOf(unit)] += unit.LengthBytes == 0 ? 0 : 1;
            }
        }
        return units;
    }
}
