using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Inference;

/// <summary>What an update takes beside the checkpoint.</summary>
internal static class UpdateMemory
{
    /// <summary>Bytes of the two buckets, which are on each GPU or once on the host, and of pinned staging memory, with the default size of a GPU's buckets, which is the larger one.</summary>
    internal static (long Buckets, long Staging) Of(TensorTable tensors)
        => (2 * BucketLayout.ChooseSize(tensors, CudaUpdateDevice.BucketBytes, BucketLimits.FromEnvironment(long.MaxValue)), CudaStaging.Bytes);
}
