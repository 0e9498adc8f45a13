namespace CheckpointEngine.Transfer.Rdma;

/// <summary>One RDMA device of this host: what it can do, its ports, and, when it can be used, the open device.</summary>
internal sealed class RdmaDevice : IDisposable
{
    /// <summary>As the kernel names it, for example <c>mlx5_0</c>.</summary>
    internal required string Name { get; init; }

    /// <summary>The GUID of its node; 0 when the kernel does not say.</summary>
    internal ulong NodeGuid { get; init; }

    /// <summary>The NUMA node it hangs on, or -1.</summary>
    internal int NumaNode { get; init; } = -1;

    /// <summary>The PCI vendor, or 0 for a device that is none of PCI.</summary>
    internal int PciVendor { get; init; }

    internal string Firmware { get; init; } = "";

    /// <summary>What it can do; null when it could not be asked.</summary>
    internal RdmaDeviceLimits? Limits { get; init; }

    /// <summary>All its ports; none when it could not be asked.</summary>
    internal RdmaPort[] Ports { get; init; } = [];

    /// <summary>Why the device cannot be used at all, and what to do; null when its ports decide.</summary>
    internal string? Unusable { get; init; }

    /// <summary>The ports that are selected but carry nothing yet: down, or without a GID.</summary>
    internal RdmaPort[] WaitingPorts { get; set; } = [];

    /// <summary>The open device; null unless one of its ports is used, or waited for.</summary>
    internal RdmaDeviceHandle? Handle { get; set; }

    /// <summary>The ports that are used: selected, active, with a GID.</summary>
    internal RdmaPort[] UsedPorts { get; set; } = [];

    public void Dispose() => Handle?.Dispose();
}
