using CheckpointEngine.Checkpoints;

namespace CheckpointEngine;

/// <summary>Consumes a bucket. Called on a thread of the join, for one bucket after the other; an exception ends the join and is what the join throws.</summary>
/// <param name="bucket">Valid until the return; the same object comes again.</param>
public delegate void BucketHandler(JoinBucket bucket);

/// <summary>Whole tensors that have arrived and were checked, in memory that is the consumer's until its handler returns; it may be changed.</summary>
public sealed unsafe class JoinBucket
{
    private readonly int[] _tensors;
    private readonly nint[] _addresses;

    internal JoinBucket(TensorTable tensors, int count, int mostTensors)
    {
        Tensors = tensors;
        Count = count;
        _tensors = new int[mostTensors];
        _addresses = new nint[mostTensors];
    }

    /// <summary>Its number, from 0 in the order in which they come.</summary>
    public int Index { get; private set; }

    /// <summary>Number of buckets of the join.</summary>
    public int Count { get; }

    /// <summary>Address of its first byte.</summary>
    public nint Address { get; private set; }

    /// <summary>Its bytes, padding included.</summary>
    public long SizeBytes { get; private set; }

    /// <summary>Number of tensors in it.</summary>
    public int TensorCount { get; private set; }

    /// <summary>The most tensors that any bucket of the join has.</summary>
    public int MostTensors => _tensors.Length;

    /// <summary>All tensors of the join, for names, types and shapes.</summary>
    public TensorTable Tensors { get; }

    /// <summary>Index in <see cref="Tensors"/> of the bucket's tensor number <paramref name="i"/>.</summary>
    public int GetTensor(int i)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)i, (uint)TensorCount, nameof(i));
        return _tensors[i];
    }

    /// <summary>Address of the first byte of the bucket's tensor number <paramref name="i"/>.</summary>
    public nint GetAddress(int i)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)i, (uint)TensorCount, nameof(i));
        return _addresses[i];
    }

    /// <summary>The bytes of the bucket's tensor number <paramref name="i"/>, of at most 2 GiB - 1.</summary>
    /// <exception cref="OverflowException">It is larger than a span; take <see cref="GetAddress"/>.</exception>
    public Span<byte> GetBytes(int i) => new((void*)GetAddress(i), checked((int)Tensors.GetByteLength(GetTensor(i))));

    internal void Begin(int index, nint address, long sizeBytes)
    {
        Index = index;
        Address = address;
        SizeBytes = sizeBytes;
        TensorCount = 0;
    }

    internal void Add(int tensor, nint address)
    {
        _tensors[TensorCount] = tensor;
        _addresses[TensorCount++] = address;
    }
}
