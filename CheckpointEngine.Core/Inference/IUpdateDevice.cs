namespace CheckpointEngine.Inference;

/// <summary>Where one worker takes weights from.</summary>
/// <remarks>One thread at a time.</remarks>
internal interface IUpdateDevice : IDisposable
{
    /// <summary>What the server calls it: <c>GPU-…</c>, <c>HOST-0</c>.</summary>
    string Uuid { get; }

    /// <summary>Bytes that an allocation can have.</summary>
    long FreeBytes { get; }

    /// <summary>Bytes of a bucket where none are asked for.</summary>
    long DefaultBucketBytes { get; }

    /// <summary>Allocates two halves. Devices that share memory give the same buffer, so that each byte is copied once.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>; what the device's library says.</exception>
    IUpdateBuffer AllocateBuffer(long halfBytes);
}
