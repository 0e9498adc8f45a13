using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Planning;
using CheckpointEngine.Transfer.Local;

namespace CheckpointEngine.Join;

/// <summary>Memory laid out as the owners' buffers are, in which bytes are received in their place; or the memory of owners on this host itself.</summary>
internal sealed class MemoryDestination : IJoinDestination, IJoinSeed
{
    private TransferPlan _plan;
    private OwnerLink?[] _links;
    private MemoryBuffer?[]? _buffers;         // null for one whose memory is the owner's

    /// <summary>Allocates what is not attached to.</summary>
    /// <param name="plan">The plan.</param>
    /// <param name="links">The owners; of one that is attached nothing is copied.</param>
    /// <param name="hold">Memfd: other processes are to attach to it. Else anonymous.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>.</exception>
    internal MemoryDestination(TransferPlan plan, OwnerLink?[] links, HoldMode hold)
    {
        _plan = plan;
        _links = links;
        _buffers = new MemoryBuffer?[plan.Buffers.Length];
        ThrowIfBeyondHost(plan, IsAttached);
        try
        {
            for (int i = 0; i < _buffers.Length; i++)
            {
                if (!IsAttached(plan.Buffers[i].Owner))
                {
                    long size = Math.Max(1, plan.Buffers[i].SizeBytes);
                    _buffers[i] = hold == HoldMode.Memfd ? MemoryBuffer.AllocateMemfd(size, "checkpoint-engine:joined") : MemoryBuffer.AllocateAnonymous(size);
                }
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Whether it has what another attempt left in it.</summary>
    internal bool GoesOn { get; private set; }

    public bool IsInPlace => true;

    /// <summary>Nothing is to be filled in: it is there.</summary>
    public bool TryRead(in ReadUnit unit, Span<byte> bytes) => AddressOf(unit) != 0;

    /// <summary>Takes another plan of the same tensors at the same places, from other owners.</summary>
    /// <returns>False when they lie elsewhere, or are attached to now.</returns>
    internal bool TryGoOn(TransferPlan plan, OwnerLink?[] links)
    {
        if (_buffers is null || !Array.TrueForAll(_buffers, static buffer => buffer is not null) || Array.Exists(links, static link => link is { IsAttached: true })
            || plan.Buffers.Length != _plan.Buffers.Length || plan.Tensors.Count != _plan.Tensors.Count)
        {
            return false;
        }
        for (int i = 0; i < plan.Buffers.Length; i++)
        {
            PlannedBuffer next = plan.Buffers[i];
            PlannedBuffer before = _plan.Buffers[i];
            if (next.SizeBytes != before.SizeBytes || next.FirstTensor != before.FirstTensor || next.TensorCount != before.TensorCount)
            {
                return false;
            }
        }
        for (int tensor = 0; tensor < plan.Tensors.Count; tensor++)
        {
            if (plan.Tensors.GetOffset(tensor) != _plan.Tensors.GetOffset(tensor) || plan.Tensors.GetByteLength(tensor) != _plan.Tensors.GetByteLength(tensor)
                || !plan.Tensors.GetNameUtf8(tensor).SequenceEqual(_plan.Tensors.GetNameUtf8(tensor)))
            {
                return false;
            }
        }
        (_plan, _links, GoesOn) = (plan, links, true);
        return true;
    }

    /// <summary>Told of every unit that is in its place; null when nobody waits for tensors.</summary>
    internal ArrivingCheckpoint? Arriving { get; private set; }

    /// <summary>Lets tensors be taken as they come; null when some of them are not copied at all.</summary>
    internal ArrivingCheckpoint? Announce(DigestVerifier? verifier)
        => Arriving = Array.TrueForAll(_buffers!, static buffer => buffer is not null) ? new ArrivingCheckpoint(_plan, [.. _buffers!.OfType<MemoryBuffer>()], verifier) : null;

    public void Completed(in ReadUnit unit) => Arriving?.Completed(unit);

    private bool IsAttached(int owner) => _links[owner] is { IsAttached: true };

    /// <summary>Refuses what this host cannot hold.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>.</exception>
    internal static void ThrowIfBeyondHost(TransferPlan plan, Predicate<int> isAttached)
    {
        long total = 0;
        foreach (PlannedBuffer buffer in plan.Buffers)
        {
            total += isAttached(buffer.Owner) ? 0 : buffer.SizeBytes;
        }
        HostMemory.ThrowIfCheckpointBeyond(total, "the joined checkpoint");
    }

    public nint AddressOf(in ReadUnit unit)
    {
        ref readonly ReadRange range = ref _plan.Ranges[unit.Range];
        return _buffers![range.Buffer] is MemoryBuffer buffer ? buffer.Address + (nint)(range.DestinationOffset + unit.OffsetInRange) : 0;
    }

    public IEnumerable<(nint Address, long LengthBytes)> Regions
        => _buffers!.OfType<MemoryBuffer>().Select(static buffer => (buffer.Address, buffer.LengthBytes));

    public SharedUnits? Share(int owner)
    {
        MemoryBuffer?[] buffers = [.. Enumerable.Range(0, _buffers!.Length).Where(buffer => _plan.Buffers[buffer].Owner == owner).Select(buffer => _buffers[buffer])];
        return Array.TrueForAll(buffers, static buffer => buffer is not null) ? new SharedUnits(buffers!, IsOwn: false, unit => (ulong)AddressOf(unit)) : null;
    }

    // Only what is attached to and to be checked comes here: it is in its place.
    public void Write(in ReadUnit unit, ReadOnlySpan<byte> bytes)
    {
    }

    /// <summary>Hands the memory on as a checkpoint; Dispose then has nothing left to release.</summary>
    internal HeldCheckpoint ToCheckpoint(string name, IReadOnlyList<SideFile> sideFiles, PinMode pin, List<string> warnings)
    {
        var held = new List<HeldBuffer>();
        var own = new List<HeldBuffer>();
        using var attachedTable = Array.Exists(_links, link => link is { IsAttached: true }) ? new TensorTableBuilder() : null;
        try
        {
            for (int i = 0; i < _buffers!.Length; i++)
            {
                PlannedBuffer planned = _plan.Buffers[i];
                if (_buffers[i] is not MemoryBuffer memory)
                {
                    AddAttached(i, held, attachedTable!);
                    continue;
                }
                memory.Freeze();
                held.Add(new HeldBuffer(memory, 0, planned.SizeBytes, planned.FirstTensor, planned.TensorCount));
                own.Add(held[^1]);
                for (int tensor = planned.FirstTensor; attachedTable is not null && tensor < planned.FirstTensor + planned.TensorCount; tensor++)
                {
                    attachedTable.AddFrom(_plan.Tensors, tensor, _plan.Tensors.GetSlotBytes(tensor), _plan.Tensors.GetOffset(tensor));
                }
            }
            MemoryPinning.Lock(own, pin, onFault: false, warnings);      // what is attached to is its owner's to lock
            var checkpoint = new HeldCheckpoint(name, attachedTable?.Build() ?? _plan.Tensors, [.. held], sideFiles, warnings);
            _buffers = null;
            return checkpoint;
        }
        catch
        {
            held.ForEach(buffer => buffer.Memory.Dispose());      // what was taken from the owners' segments has no other owner now
            throw;
        }
    }

    // Each run of the owner's memory becomes a buffer of its own; empty tensors before a run, or behind the last one, go with it.
    private void AddAttached(int buffer, List<HeldBuffer> held, TensorTableBuilder table)
    {
        PlannedBuffer planned = _plan.Buffers[buffer];
        int next = planned.FirstTensor;
        int end = planned.FirstTensor + planned.TensorCount;
        TensorTable tensors = _plan.Tensors;
        ReadRange[] runs = [.. _plan.Ranges.ToArray().Where(range => range.Buffer == buffer)];
        for (int r = 0; r < runs.Length; r++)
        {
            ReadRange run = runs[r];
            int first = next;
            next = r == runs.Length - 1 ? end : run.FirstTensor + run.TensorCount;
            int lastOfRun = run.FirstTensor + run.TensorCount - 1;
            for (int tensor = first; tensor < next; tensor++)
            {
                bool inRun = tensor >= run.FirstTensor && tensor <= lastOfRun;
                table.AddFrom(tensors, tensor,
                    !inRun ? 0 : tensor == lastOfRun ? tensors.GetByteLength(tensor) : tensors.GetSlotBytes(tensor),
                    tensor < run.FirstTensor ? 0 : inRun ? tensors.GetOffset(tensor) - run.DestinationOffset : run.LengthBytes);
            }
            LocalSegment segment = _links[planned.Owner]!.Local!.Find(run.RemoteAddress, (ulong)run.LengthBytes);
            held.Add(new HeldBuffer(segment.TakeMapping(), segment.OffsetInMapping(run.RemoteAddress), run.LengthBytes, first, next - first));
        }
        if (runs.Length == 0 && planned.TensorCount != 0)
        {
            for (int tensor = next; tensor < end; tensor++)
            {
                table.AddFrom(tensors, tensor, 0, 0);
            }
            held.Add(new HeldBuffer(MemoryBuffer.AllocateAnonymous(1), 0, 0, next, end - next));
        }
    }

    public void Dispose()
    {
        foreach (MemoryBuffer? buffer in _buffers ?? [])
        {
            buffer?.Dispose();
        }
        _buffers = null;
    }
}
