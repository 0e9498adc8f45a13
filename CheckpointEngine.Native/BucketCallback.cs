using System.Runtime.InteropServices;

namespace CheckpointEngine.Native;

/// <summary>Hands buckets to a function of the caller. A bucket allocates nothing: its description is written over the one before.</summary>
internal sealed unsafe class BucketCallback(delegate* unmanaged[Cdecl]<void*, CeBucket*, int> function, void* user)
{
    private CeTensor* _tensors;

    /// <summary>The join that it belongs to; set before it starts.</summary>
    internal NativeJoin? Join { get; set; }

    internal void OnBucket(JoinBucket bucket)
    {
        if (_tensors == null)
        {
            _tensors = (CeTensor*)NativeMemory.Alloc((nuint)Math.Max(1, bucket.MostTensors), (nuint)sizeof(CeTensor));
        }
        for (int i = 0; i < bucket.TensorCount; i++)
        {
            CeTensor.Fill(_tensors + i, bucket.Tensors, bucket.GetTensor(i), bucket.GetAddress(i));
        }
        var native = new CeBucket
        {
            Data = (void*)bucket.Address,
            SizeBytes = (ulong)bucket.SizeBytes,
            Tensors = _tensors,
            TensorCount = (ulong)bucket.TensorCount,
            Index = (ulong)bucket.Index,
            Count = (ulong)bucket.Count,
        };
        NativeJoin.InCallbackOf = Join;
        int result = function(user, &native);
        NativeJoin.InCallbackOf = null;
        if (result != 0)
        {
            throw new CallException(Status.Callback, $"the callback returned {result} for bucket {bucket.Index:N0} of {bucket.Count:N0}");
        }
        Join!.BucketDone();
    }

    internal void Free()
    {
        NativeMemory.Free(_tensors);
        _tensors = null;
    }
}
