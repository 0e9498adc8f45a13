using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Registers memory with the devices of a process, each by its place among them.</summary>
/// <remarks>Any number of threads.</remarks>
internal interface IRdmaRegistrar
{
    /// <summary>How many devices there are, those included that carry nothing now.</summary>
    int Devices { get; }

    /// <summary>The most bytes that every one of the devices takes as one region.</summary>
    long LargestBytes { get; }

    /// <summary>Whether a device carries something now: memory is registered with those alone, and with others when they do.</summary>
    bool IsUsable(int device);

    /// <summary>A device's name.</summary>
    string NameOf(int device);

    /// <summary>The NUMA node that a device hangs on, or -1.</summary>
    int NodeOf(int device);

    /// <summary>The NUMA node that registered memory lies on, or <see cref="RdmaAffinity.AnyNode"/>.</summary>
    int NodeOfMemory(ulong address, long lengthBytes);

    /// <summary>Registers memory with one device; takes time for its size.</summary>
    /// <param name="device">Which.</param>
    /// <param name="buffer">What the memory belongs to; null when only its address is known.</param>
    /// <param name="address">First byte.</param>
    /// <param name="lengthBytes">At most <see cref="LargestBytes"/>.</param>
    /// <exception cref="CheckpointEngineException">The device or the kernel refuses.</exception>
    IRdmaRegion Register(int device, MemoryBuffer? buffer, ulong address, long lengthBytes);
}

/// <summary>Memory that is registered with one device until it is disposed.</summary>
internal interface IRdmaRegion : IDisposable
{
    uint LocalKey { get; }

    uint RemoteKey { get; }
}
