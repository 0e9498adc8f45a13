using CheckpointEngine.Checkpoints;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>An earlier version of the checkpoint, in this process's memory: tensors are found by name and must be as long.</summary>
internal sealed class HeldSeed : IJoinSeed
{
    private readonly TransferPlan _plan;
    private readonly HeldCheckpoint _earlier;
    private readonly int[] _tensors;       // by tensor of the plan; -1: there is none

    /// <param name="plan">What is wanted.</param>
    /// <param name="earlier">Stays as it is while the seed is used.</param>
    internal HeldSeed(TransferPlan plan, HeldCheckpoint earlier)
    {
        _plan = plan;
        _earlier = earlier;
        _tensors = new int[plan.Tensors.Count];
        for (int tensor = 0; tensor < _tensors.Length; tensor++)
        {
            int found = earlier.Tensors.IndexOf(plan.Tensors.GetNameUtf8(tensor));
            _tensors[tensor] = found >= 0 && earlier.Tensors.GetByteLength(found) == plan.Tensors.GetByteLength(tensor) ? found : -1;
        }
    }

    public bool IsInPlace => false;

    public unsafe bool TryRead(in ReadUnit unit, Span<byte> bytes)
    {
        foreach (UnitPart part in new UnitParts(_plan, unit))
        {
            if (_tensors[part.Tensor] < 0)
            {
                return false;
            }
            new ReadOnlySpan<byte>((void*)(_earlier.GetAddress(_tensors[part.Tensor]) + (nint)part.Offset), part.LengthBytes).CopyTo(bytes[part.Start..]);
        }
        return true;
    }
}
