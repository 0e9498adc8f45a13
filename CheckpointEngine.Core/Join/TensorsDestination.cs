using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>
/// The caller's own tensors, each found by its name. A large one is received in its place; small ones, which would cost a request each, are read
/// together and put in their places out of the lane's memory.
/// </summary>
internal sealed unsafe class TensorsDestination : IJoinDestination
{
    // A tensor of this size fills a request well enough to have it alone.
    private const long OwnRequestBytes = 256 << 10;

    private readonly TransferPlan _plan;
    private readonly nint[] _addresses;         // by tensor of the plan

    private TensorsDestination(TransferPlan plan, nint[] addresses)
    {
        _plan = plan;
        _addresses = addresses;
    }

    /// <summary>Finds a place for each tensor of a plan that reads no others.</summary>
    /// <returns>The destination, and the plan in runs that suit it.</returns>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>: the owners do not hold one of them. <see cref="CheckpointError.WrongShape"/>: they hold it with another type or shape.</exception>
    internal static (TensorsDestination Destination, TransferPlan Plan) Make(TransferPlan plan, CallerTensors tensors)
    {
        TensorTable theirs = plan.Tensors;
        TensorTable ours = tensors.Table;
        for (int tensor = 0; theirs.Count != ours.Count && tensor < ours.Count; tensor++)
        {
            if (theirs.IndexOf(ours.GetNameUtf8(tensor)) < 0)
            {
                ThrowHelper.Throw(CheckpointError.NotFound, $"join into the caller's tensors: tensor {TensorNames.Quote(ours, tensor)} is not in the metas, or left out by the patterns");
            }
        }
        var addresses = new nint[theirs.Count];
        for (int tensor = 0; tensor < addresses.Length; tensor++)
        {
            int mine = ours.IndexOf(theirs.GetNameUtf8(tensor));
            if (theirs.GetDtype(tensor) != ours.GetDtype(mine) || !theirs.GetShape(tensor).SequenceEqual(ours.GetShape(mine)))
            {
                ThrowHelper.Throw(CheckpointError.WrongShape,
                    $"join into the caller's tensors: tensor {TensorNames.Quote(ours, mine)} is {Describe(ours, mine)} here and {Describe(theirs, tensor)} at its owner");
            }
            addresses[tensor] = tensors.Addresses[mine];
        }
        TransferPlan split = plan.WithRanges(Split(plan));
        return (new TensorsDestination(split, addresses), split);
    }

    public nint AddressOf(in ReadUnit unit)
    {
        ref readonly ReadRange range = ref _plan.Ranges[unit.Range];
        return range.TensorCount == 1 ? _addresses[range.FirstTensor] + (nint)unit.OffsetInRange : 0;
    }

    public IEnumerable<(nint Address, long LengthBytes)> Regions
        => _plan.Ranges.ToArray().Where(static range => range.TensorCount == 1 && range.LengthBytes != 0).Select(range => (_addresses[range.FirstTensor], range.LengthBytes));

    public void Write(in ReadUnit unit, ReadOnlySpan<byte> bytes)
    {
        ref readonly ReadRange range = ref _plan.Ranges[unit.Range];
        TensorTable tensors = _plan.Tensors;
        long unitStart = range.DestinationOffset + unit.OffsetInRange;
        for (int tensor = unit.FirstTensor; tensor < range.FirstTensor + range.TensorCount; tensor++)
        {
            long start = tensors.GetOffset(tensor) - unitStart;
            long from = Math.Max(0, start);
            long to = Math.Min(bytes.Length, start + tensors.GetByteLength(tensor));
            if (start >= bytes.Length)
            {
                break;
            }
            if (from < to)
            {
                bytes[(int)from..(int)to].CopyTo(new Span<byte>((byte*)_addresses[tensor] + (from - start), (int)(to - from)));
            }
        }
    }

    public void Dispose()
    {
    }

    private static ReadRange[] Split(TransferPlan plan)
    {
        TensorTable tensors = plan.Tensors;
        var ranges = new List<ReadRange>(plan.Ranges.Length);
        foreach (ReadRange range in plan.Ranges)
        {
            int end = range.FirstTensor + range.TensorCount;
            for (int first = range.FirstTensor; first < end;)
            {
                int next = first + 1;
                while (tensors.GetByteLength(first) < OwnRequestBytes && next < end && tensors.GetByteLength(next) < OwnRequestBytes)
                {
                    next++;
                }
                if (range.Cut(tensors, first, next) is { LengthBytes: > 0 } part)
                {
                    ranges.Add(part);
                }
                first = next;
            }
        }
        return [.. ranges];
    }

    private static string Describe(TensorTable tensors, int tensor) => $"{tensors.GetDtypeName(tensor)} [{string.Join(',', tensors.GetShape(tensor).ToArray())}]";
}
