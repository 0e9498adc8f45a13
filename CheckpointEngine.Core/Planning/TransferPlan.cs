using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Planning;

/// <summary>A destination buffer of a plan: it takes what is wanted of one buffer of one owner, in the same order.</summary>
/// <param name="Owner">Index into <see cref="CheckpointMetas.Owners"/>.</param>
/// <param name="SourceBuffer">Index into that owner's buffers.</param>
/// <param name="SizeBytes">Bytes of the destination buffer.</param>
/// <param name="FirstTensor">Its first tensor in <see cref="TransferPlan.Tensors"/>.</param>
/// <param name="TensorCount">Number of its tensors.</param>
public readonly record struct PlannedBuffer(int Owner, int SourceBuffer, long SizeBytes, int FirstTensor, int TensorCount);

/// <summary>A contiguous run of one owner's memory that goes to a contiguous run of one destination buffer.</summary>
/// <param name="Owner">Index into <see cref="CheckpointMetas.Owners"/>.</param>
/// <param name="RemoteAddress">Where it starts in the owner's process.</param>
/// <param name="LengthBytes">Bytes, padding between tensors included.</param>
/// <param name="Buffer">Index into <see cref="TransferPlan.Buffers"/>.</param>
/// <param name="DestinationOffset">Bytes from that buffer's start.</param>
/// <param name="FirstTensor">Its first tensor in <see cref="TransferPlan.Tensors"/>.</param>
/// <param name="TensorCount">Number of its tensors.</param>
public readonly record struct ReadRange(int Owner, ulong RemoteAddress, long LengthBytes, int Buffer, long DestinationOffset, int FirstTensor, int TensorCount)
{
    /// <summary>The part of the run with the tensors <paramref name="first"/> to <paramref name="next"/> (not included), without the padding behind them.</summary>
    internal ReadRange Cut(TensorTable tensors, int first, int next)
    {
        long start = tensors.GetOffset(first);
        long end = tensors.GetOffset(next - 1) + tensors.GetByteLength(next - 1);
        return this with { RemoteAddress = RemoteAddress + (ulong)(start - DestinationOffset), LengthBytes = end - start, DestinationOffset = start, FirstTensor = first, TensorCount = next - first };
    }
}

/// <summary>Who reads what from whom: which tensors, into which buffers, in which contiguous runs.</summary>
/// <remarks>Immutable; any number of threads. Made by <see cref="TransferPlanner"/>.</remarks>
public sealed class TransferPlan
{
    private readonly PlannedBuffer[] _buffers;
    private readonly ReadRange[] _ranges;
    private readonly int[]? _sourceTensors;      // null: the same as in the metas
    private readonly long[] _ownerBytes;

    internal TransferPlan(CheckpointMetas metas, TensorTable tensors, int[]? sourceTensors, PlannedBuffer[] buffers, ReadRange[] ranges, long[] ownerBytes)
    {
        Metas = metas;
        Tensors = tensors;
        _sourceTensors = sourceTensors;
        _buffers = buffers;
        _ranges = ranges;
        _ownerBytes = ownerBytes;
    }

    /// <summary>The same tensors in other runs.</summary>
    internal TransferPlan WithRanges(ReadRange[] ranges) => new(Metas, Tensors, _sourceTensors, _buffers, ranges, _ownerBytes);

    /// <summary>The metas that the plan was made from.</summary>
    public CheckpointMetas Metas { get; }

    /// <summary>The wanted tensors with their places in the destination buffers.</summary>
    public TensorTable Tensors { get; }

    /// <summary>The destination buffers.</summary>
    public ReadOnlySpan<PlannedBuffer> Buffers => _buffers;

    /// <summary>The runs, those of an owner next to each other, by rising address within a buffer.</summary>
    public ReadOnlySpan<ReadRange> Ranges => _ranges;

    /// <summary>The index in <see cref="CheckpointMetas.Tensors"/> of one of <see cref="Tensors"/>.</summary>
    public int GetSourceTensor(int tensor) => _sourceTensors is null ? tensor : _sourceTensors[tensor];

    /// <summary>Bytes of tensor data to read from each owner; 0 for one that is not needed.</summary>
    public ReadOnlySpan<long> OwnerBytes => _ownerBytes;

    /// <summary>Bytes of tensor data over all owners, padding not counted.</summary>
    public long DataBytes
    {
        get
        {
            long bytes = 0;
            foreach (long owner in _ownerBytes)
            {
                bytes += owner;
            }
            return bytes;
        }
    }
}
