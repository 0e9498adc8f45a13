using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>Anonymous memory in huge pages, laid out as the owners' buffers are: bytes are received in their place.</summary>
internal sealed class MemoryDestination : IJoinDestination
{
    private readonly TransferPlan _plan;
    private MemoryBuffer[]? _buffers;

    internal MemoryDestination(TransferPlan plan)
    {
        _plan = plan;
        ThrowIfBeyondHost(plan);
        var buffers = new List<MemoryBuffer>(plan.Buffers.Length);
        try
        {
            foreach (PlannedBuffer buffer in plan.Buffers)
            {
                buffers.Add(MemoryBuffer.AllocateAnonymous(Math.Max(1, buffer.SizeBytes)));
            }
        }
        catch
        {
            buffers.ForEach(buffer => buffer.Dispose());
            throw;
        }
        _buffers = [.. buffers];
    }

    /// <summary>Refuses what this host cannot hold.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>.</exception>
    internal static void ThrowIfBeyondHost(TransferPlan plan)
    {
        long total = 0;
        foreach (PlannedBuffer buffer in plan.Buffers)
        {
            total += buffer.SizeBytes;
        }
        HostMemory.ThrowIfBeyond(total, "the joined checkpoint");
    }

    public nint AddressOf(in ReadUnit unit)
    {
        ref readonly ReadRange range = ref _plan.Ranges[unit.Range];
        return _buffers![range.Buffer].Address + (nint)(range.DestinationOffset + unit.OffsetInRange);
    }

    public void Write(in ReadUnit unit, ReadOnlySpan<byte> bytes) => throw new InvalidOperationException("bytes are received in place");

    /// <summary>Hands the memory on as a checkpoint; Dispose then has nothing left to release.</summary>
    internal HeldCheckpoint ToCheckpoint(string name, IReadOnlyList<SideFile> sideFiles, PinMode pin, List<string> warnings)
    {
        var held = new List<HeldBuffer>();
        for (int i = 0; i < _buffers!.Length; i++)
        {
            PlannedBuffer planned = _plan.Buffers[i];
            held.Add(new HeldBuffer(_buffers[i], 0, planned.SizeBytes, planned.FirstTensor, planned.TensorCount));
        }
        MemoryPinning.Lock(held, pin, onFault: false, warnings);
        _buffers = null;
        return new HeldCheckpoint(name, _plan.Tensors, [.. held], sideFiles, warnings);
    }

    public void Dispose()
    {
        foreach (MemoryBuffer buffer in _buffers ?? [])
        {
            buffer.Dispose();
        }
        _buffers = null;
    }
}
