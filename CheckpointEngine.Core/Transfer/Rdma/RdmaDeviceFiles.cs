using System.Globalization;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>What the kernel tells of RDMA devices in files only, under <c>/sys/class/infiniband</c>, or a tree like it.</summary>
internal static class RdmaDeviceFiles
{
    private const string Root = "/sys/class/infiniband/";

    /// <summary>The NUMA node that a device hangs on; -1 when it hangs on none.</summary>
    internal static int NumaNode(string device) => Read($"{Root}{device}/device/numa_node") is { } text
        && int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int node) && node >= 0 ? node : -1;

    /// <summary>A device's PCI vendor; 0 when it is not of PCI.</summary>
    internal static int PciVendor(string device) => Read($"{Root}{device}/device/vendor") is { } text && text.StartsWith("0x", StringComparison.Ordinal)
        && int.TryParse(text.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out int vendor) ? vendor : 0;

    /// <summary>The network interface whose address a GID is; null when there is none.</summary>
    internal static string? GidNetworkDevice(string device, int port, int index, string root = Root)
        => Read(string.Create(CultureInfo.InvariantCulture, $"{root}{device}/ports/{port}/gid_attrs/ndevs/{index}"));

    /// <summary>The kind of a GID, which the kernel writes for InfiniBand and RoCE v1 alike.</summary>
    internal static GidTableType GidType(string device, int port, int index, bool isEthernet, string root = Root)
        => Read(string.Create(CultureInfo.InvariantCulture, $"{root}{device}/ports/{port}/gid_attrs/types/{index}")) == "RoCE v2" ? GidTableType.RoceV2
            : isEthernet ? GidTableType.RoceV1 : GidTableType.InfiniBand;

    /// <summary>The network interface of a port on Ethernet; null when the kernel does not say.</summary>
    internal static string? NetworkDevice(string device, int port)
    {
        if (GidNetworkDevice(device, port, 0) is { } ofGid)
        {
            return ofGid;
        }
        // Software devices name theirs here; of hardware it is the one on the same PCI function.
        if (Read($"{Root}{device}/parent") is { } parent)
        {
            return parent;
        }
        try
        {
            string[] names = Directory.GetDirectories($"{Root}{device}/device/net");
            return names.Length == 1 ? Path.GetFileName(names[0]) : null;
        }
        catch (Exception absent) when (absent is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>The rate of a port, which the kernel writes as <c>400 Gb/sec (4X NDR)</c>; 0 when it does not.</summary>
    internal static double GigabitsPerSecond(string device, int port, string root = Root)
        => ParseRate(Read(string.Create(CultureInfo.InvariantCulture, $"{root}{device}/ports/{port}/rate")));

    internal static double ParseRate(string? text)
    {
        int blank = text is null ? -1 : text.IndexOf(' ', StringComparison.Ordinal);
        return blank > 0 && text.AsSpan(blank).StartsWith(" Gb/sec", StringComparison.Ordinal)
            && double.TryParse(text.AsSpan(0, blank), NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double rate) ? rate : 0;
    }

    private static string? Read(string path)
    {
        try
        {
            string text = File.ReadAllText(path).Trim();
            return text.Length == 0 ? null : text;
        }
        catch (Exception absent) when (absent is IOException or UnauthorizedAccessException)
        {
            return null;   // a place that is empty, or a kernel that does not say
        }
    }
}
