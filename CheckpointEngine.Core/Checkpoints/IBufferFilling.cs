namespace CheckpointEngine.Checkpoints;

/// <summary>Is told of buffers that are about to be filled, all of which peers may come to read: what that needs can be begun meanwhile.</summary>
internal interface IBufferFilling
{
    /// <summary>The pages are there and will be filled. Not for memory that is sealed when it is full: the kernel seals none that is pinned.</summary>
    void BeginFilling(MemoryBuffer buffer);

    /// <summary>The buffer is about to be freed, and peers will not read it. Does nothing for one that is not being filled.</summary>
    void AbandonFilling(MemoryBuffer buffer);
}
