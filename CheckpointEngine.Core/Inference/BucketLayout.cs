using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Inference;

/// <summary>Which tensors go in which bucket of an update, and where in it: in the order of the table, a new bucket when the next would fill it beyond what was asked for.</summary>
/// <remarks>Immutable. Workers slice by offset, so the alignment is ours to choose: 256 serves every element type and the device's copies.</remarks>
internal sealed class BucketLayout
{
    internal const int Alignment = 256;

    private readonly int[] _ends;               // per bucket: the tensor behind its last
    private readonly long[] _dataBytes;
    private readonly long[] _offsets;           // per tensor

    private BucketLayout(long bucketBytes, int[] ends, long[] dataBytes, long[] offsets)
    {
        BucketBytes = bucketBytes;
        _ends = ends;
        _dataBytes = dataBytes;
        _offsets = offsets;
    }

    /// <summary>Bytes that a bucket has room for.</summary>
    internal long BucketBytes { get; }

    internal int Count => _ends.Length;

    internal int FirstTensor(int bucket) => bucket == 0 ? 0 : _ends[bucket - 1];

    internal int TensorCount(int bucket) => _ends[bucket] - FirstTensor(bucket);

    /// <summary>Bytes of tensors in a bucket, padding not counted.</summary>
    internal long DataBytes(int bucket) => _dataBytes[bucket];

    /// <summary>Bytes from the start of a tensor's bucket to its first byte.</summary>
    internal long OffsetOf(int tensor) => _offsets[tensor];

    /// <summary>Lays tensors out.</summary>
    /// <param name="tensors">The tensors.</param>
    /// <param name="bucketBytes">Bytes that a bucket has room for.</param>
    /// <param name="filledBytes">
    /// How far a bucket is filled, at most; a larger tensor has one for itself. Room for one large tensor need not be filled every time: memory that was
    /// not touched costs nothing, and small buckets are sooner there.
    /// </param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: a tensor is larger than a bucket.</exception>
    internal static BucketLayout Make(TensorTable tensors, long bucketBytes, long filledBytes)
    {
        var ends = new List<int>();
        var dataBytes = new List<long>();
        long[] offsets = new long[tensors.Count];
        long next = 0;
        long data = 0;
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            long bytes = tensors.GetByteLength(tensor);
            if (bytes > bucketBytes)
            {
                ThrowHelper.Throw(CheckpointError.NotSupported,
                    $"update: tensor {TensorNames.Quote(tensors, tensor)} has {bytes:N0} bytes and a bucket {bucketBytes:N0}; raise PS_MAX_BUCKET_SIZE_GB");
            }
            if (next != 0 && next > Math.Min(bucketBytes, filledBytes) - bytes)
            {
                EndBucket(tensor);
            }
            offsets[tensor] = next;
            next = Align(next + bytes);
            data += bytes;
        }
        if (tensors.Count != 0)
        {
            EndBucket(tensors.Count);
        }
        return new BucketLayout(bucketBytes, [.. ends], [.. dataBytes], offsets);

        void EndBucket(int end)
        {
            ends.Add(end);
            dataBytes.Add(data);
            next = data = 0;
        }
    }

    /// <summary>How large a bucket is to be: what was asked for, at most the limit and what all tensors take, at least the largest tensor.</summary>
    /// <param name="tensors">The tensors.</param>
    /// <param name="wantedBytes">What was asked for.</param>
    /// <param name="limits">What the environment and the device allow.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>: the largest tensor is more than the device has room for, twice.</exception>
    internal static long ChooseSize(TensorTable tensors, long wantedBytes, BucketLimits limits)
    {
        long largest = 0;
        int largestTensor = 0;
        long all = 0;
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            long bytes = Align(tensors.GetByteLength(tensor));
            all += bytes;
            if (bytes > largest)
            {
                (largest, largestTensor) = (bytes, tensor);
            }
        }
        long most = limits.DeviceBytes & -Alignment;
        if (largest > most)
        {
            ThrowHelper.Throw(CheckpointError.OutOfMemory,
                $"update: tensor {TensorNames.Quote(tensors, largestTensor)} of {tensors.GetByteLength(largestTensor):N0} bytes is to lie in a buffer twice, and {limits.DeviceBytes:N0} bytes are free for each half; "
                + "free memory, or let more of it be used (PS_MEM_FRACTION); PS_MAX_BUCKET_SIZE_GB gives way to a tensor by itself");
        }
        return Math.Max(Alignment, Math.Min(most, Math.Max(largest, Math.Min(all, Align(Math.Min(wantedBytes, limits.MaxBytes))))));
    }

    private static long Align(long bytes) => (bytes + Alignment - 1) & -Alignment;
}
