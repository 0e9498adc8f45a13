using System.Buffers.Binary;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>The RDMA devices of this host: found once, the used ones open until this is disposed of.</summary>
/// <remarks>One thread.</remarks>
internal sealed unsafe partial class RdmaDevices : IDisposable
{
    private const int AmazonVendor = 0x1d0f;

    // Tables have up to 256 places a port; a driver that says more is not believed.
    private const int MaxGidTable = 1024;
    private const int MaxPorts = 64;

    private RdmaDevices(RdmaDevice[] all, RdmaMeantPort[] meant, HcaSelection selection, string? whyNone, string[] warnings, bool libraryFound = true)
    {
        LibraryFound = libraryFound;
        All = all;
        Meant = meant;
        Used = Array.FindAll(all, device => device.UsedPorts.Length != 0);
        Selection = selection;
        WhyNone = whyNone;
        Warnings = warnings;
    }

    /// <summary>Whether libibverbs could be loaded.</summary>
    internal bool LibraryFound { get; }

    /// <summary>Every device of the host, with why it is not used.</summary>
    internal RdmaDevice[] All { get; }

    /// <summary>The devices with a port to use, open, in the order in which the user named them, else in the library's.</summary>
    internal RdmaDevice[] Used { get; }

    /// <summary>
    /// The ports that are used, in the order in which the user named them, else in the library's; then those that are meant and not up, in the library's.
    /// </summary>
    internal RdmaMeantPort[] Meant { get; }

    internal HcaSelection Selection { get; }

    /// <summary>Why there is no device to use, and what to do; null when there is one.</summary>
    internal string? WhyNone { get; }

    /// <summary>What was said about the selection; logged already.</summary>
    internal string[] Warnings { get; }

    /// <summary>Looks for devices. Not finding one is no failure, whatever the cause.</summary>
    /// <param name="selection">Which the user wants.</param>
    /// <param name="logger">Gets one line for each port or device that was passed over though it was wanted, and one for each warning.</param>
    internal static RdmaDevices Discover(HcaSelection selection, ILogger logger)
    {
        if (!LibIbverbs.TryLoad(out string? reason))
        {
            return new RdmaDevices([], [], selection, reason, [], libraryFound: false);
        }
        int count;
        LibIbverbs.IbvDevice** list = LibIbverbs.ibv_get_device_list(&count);
        if (list == null)
        {
            int errno = Marshal.GetLastPInvokeError();
            string why = $"ibv_get_device_list: {VerbsStatus.Errno(errno)}; does the kernel have RDMA (modprobe ib_uverbs), "
                + "and is /dev/infiniband given to the container?";
            return new RdmaDevices([], [], selection, why, []);
        }
        RdmaDevice[] found;
        try
        {
            found = new RdmaDevice[count];
            for (int index = 0; index < count; index++)
            {
                found[index] = Examine(list[index]);
            }
        }
        finally
        {
            LibIbverbs.ibv_free_device_list(list);
        }
        return Choose(found, selection, logger);
    }

    public void Dispose()
    {
        foreach (RdmaDevice device in All)
        {
            device.Dispose();
        }
    }

    /// <summary>Takes those of the devices' ports that the user means; closes devices of which none is.</summary>
    internal static RdmaDevices Choose(RdmaDevice[] found, HcaSelection selection, ILogger logger)
    {
        // Names are looked for among all ports, so that a named one that is down is not one that matches nothing: others in its place would surprise.
        var there = new List<RdmaPortName>();
        var usable = new List<RdmaPortName>();
        var ports = new List<RdmaPort>();
        var owners = new List<RdmaDevice>();
        foreach (RdmaDevice device in found)
        {
            if (device.Ports.Length == 0)
            {
                there.Add(new RdmaPortName(device.Name, 1));
            }
            foreach (RdmaPort port in device.Ports)
            {
                there.Add(new RdmaPortName(device.Name, port.Number));
                if (device.Unusable is null && port.Unusable is null)
                {
                    usable.Add(new RdmaPortName(device.Name, port.Number));
                    ports.Add(port);
                    owners.Add(device);
                }
            }
        }
        HcaChoice meant = selection.Select(CollectionsMarshal.AsSpan(there));
        HcaSelection effective = meant.FellBack ? HcaSelection.All : selection;
        HcaChoice choice = effective.Select(CollectionsMarshal.AsSpan(usable));
        int[] taken = choice.FellBack ? [] : choice.Indices;
        string[] warnings = choice.Limited is { } limited ? [.. meant.Warnings, limited] : meant.Warnings;
        var order = new List<RdmaDevice>();
        var allMeant = new List<RdmaMeantPort>();
        foreach (int index in taken)
        {
            RdmaDevice device = owners[index];
            Mean(device, ports[index]);
            device.UsedPorts = [.. device.UsedPorts, ports[index]];
            if (!order.Contains(device))
            {
                order.Add(device);
            }
        }
        foreach (RdmaDevice device in found)
        {
            foreach (RdmaPort port in device.Ports)
            {
                port.IsSelected = effective.Matches(device.Name, port.Number);
            }
            device.WaitingPorts = device.Unusable is null ? Array.FindAll(device.Ports, port => port.IsSelected && port.Unusable is not null) : [];
            Array.ForEach(device.WaitingPorts, port => Mean(device, port));
            if (device.UsedPorts.Length == 0)
            {
                if (device.WaitingPorts.Length == 0)
                {
                    device.Handle?.Dispose();
                    device.Handle = null;
                }
                order.Add(device);
            }
            LogPassedOver(device, effective, logger);
        }
        foreach (string warning in warnings)
        {
            LogWarning(logger, warning);
        }
        return new RdmaDevices([.. order], [.. allMeant], selection, taken.Length == 0 ? WhyNoneOf(found, effective) : null, warnings);

        // A peer's descriptor has one LID and one GID a device: a further port is a device of its own to it.
        void Mean(RdmaDevice device, RdmaPort port) => allMeant.Add(new RdmaMeantPort(device, port,
            allMeant.Exists(other => other.Device == device) ? new RdmaPortName(device.Name, port.Number).ToString() : device.Name));
    }

    private static void LogPassedOver(RdmaDevice device, HcaSelection selection, ILogger logger)
    {
        // Who named the device wants to hear of it; else a second port without a cable is an everyday thing.
        LogLevel level = selection.Source is null ? LogLevel.Information : LogLevel.Warning;
        if (device.Unusable is not null && selection.Matches(device.Name, 1))
        {
            LogDevicePassedOver(logger, level, device.Name, device.Unusable);
            return;
        }
        foreach (RdmaPort port in device.Ports)
        {
            if (port.Unusable is not null && port.IsSelected)
            {
                LogPortPassedOver(logger, level, device.Name, port.Number, VerbsStatus.PortState(port.State), port.Unusable);
            }
            else if (port.Unusable is null && port.IsSelected && port.GidChoice.Warning is { } warning)
            {
                LogWarning(logger, $"{device.Name} port {port.Number}: {warning}");
            }
        }
    }

    private static string WhyNoneOf(RdmaDevice[] found, HcaSelection selection)
    {
        if (found.Length == 0)
        {
            return "this host has no RDMA device that libibverbs knows (ibv_devices); a driver may be missing: apt-get install ibverbs-providers, or rdma link";
        }
        string reasons = "";
        foreach (RdmaDevice device in found)
        {
            if (device.Unusable is not null)
            {
                reasons += $"{(reasons.Length == 0 ? "" : "; ")}{device.Name}: {device.Unusable}";
                continue;
            }
            foreach (RdmaPort port in device.Ports)
            {
                string why = port.Unusable ?? $"left out by {selection.Source}={selection.Text}";
                reasons += $"{(reasons.Length == 0 ? "" : "; ")}{device.Name} port {port.Number} is {VerbsStatus.PortState(port.State)}: {why}";
            }
        }
        return "no RDMA port can be used: " + reasons;
    }

    private static RdmaDevice Examine(LibIbverbs.IbvDevice* device)
    {
        string name = Marshal.PtrToStringUTF8((nint)LibIbverbs.ibv_get_device_name(device)) ?? "";
        ulong guid = BinaryPrimitives.ReverseEndianness(LibIbverbs.ibv_get_device_guid(device));
        int numaNode = RdmaDeviceFiles.NumaNode(name);
        int vendor = RdmaDeviceFiles.PciVendor(name);
        RdmaDevice Refused(string why) => new() { Name = name, NodeGuid = guid, NumaNode = numaNode, PciVendor = vendor, Unusable = why };

        if (WhyUnfit(vendor, device->transport_type) is { } unfit)
        {
            return Refused(unfit);
        }
        RdmaDeviceHandle? handle = RdmaDeviceHandle.Open(device, out int errno);
        if (handle is null)
        {
            return Refused($"cannot be opened: {VerbsStatus.Errno(errno)}; "
                + "may this process read and write /dev/infiniband/uverbs* (container: --device=/dev/infiniband)?");
        }
        LibIbverbs.IbvDeviceAttr attributes = default;
        errno = LibIbverbs.ibv_query_device(handle.Pointer, &attributes);
        if (errno != 0)
        {
            handle.Dispose();
            return Refused($"cannot be asked what it can do: ibv_query_device: {VerbsStatus.Errno(errno)}; look at the kernel log (dmesg)");
        }
        try
        {
            var limits = new RdmaDeviceLimits(attributes);
            return new RdmaDevice
            {
                Name = name,
                NodeGuid = guid,
                NumaNode = numaNode,
                PciVendor = vendor,
                Firmware = Marshal.PtrToStringUTF8((nint)attributes.fw_ver) ?? "",
                Limits = limits,
                Ports = ExaminePorts(handle.Pointer, name, limits),
                Handle = handle,
            };
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>Why a kind of device does not fit at all; null when it does.</summary>
    internal static string? WhyUnfit(int pciVendor, int transport) => (pciVendor, transport) switch
    {
        (AmazonVendor, _) => "is an EFA, whose datagrams (SRD) are no queue pairs that memory can be read by; "
            + "use --transport mooncake with a Mooncake that was built for EFA, or --transport tcp",
        (_, LibIbverbs.IBV_TRANSPORT_IWARP) => "speaks iWARP, whose connections are made by TCP and not by the handshake used here; use --transport tcp",
        (_, LibIbverbs.IBV_TRANSPORT_IB) => null,
        _ => "speaks neither InfiniBand nor RoCE; use --transport tcp",
    };

    /// <summary>Reads one port of an open device as it is now.</summary>
    internal static RdmaPort ExaminePort(LibIbverbs.IbvContext* context, string name, int number)
    {
        LibIbverbs.IbvPortAttr attributes = default;
        if (LibIbverbs.ibv_query_port(context, (byte)number, &attributes) != 0)
        {
            attributes = default;
        }
        var entries = new LibIbverbs.IbvGidEntry[MaxGidTable];
        int filled = ReadGidTable(context, entries);
        return MakePort(name, number, attributes, filled >= 0
            ? GidsOf(name, number, entries.AsSpan(0, filled), attributes.link_layer == LibIbverbs.IBV_LINK_LAYER_ETHERNET)
            : ReadGidsOneByOne(context, name, number, attributes));
    }

    private static RdmaPort[] ExaminePorts(LibIbverbs.IbvContext* context, string name, RdmaDeviceLimits limits)
    {
        int count = Math.Min(limits.PhysicalPorts, MaxPorts);
        var attributes = new LibIbverbs.IbvPortAttr[count];
        int places = 0;
        for (int index = 0; index < count; index++)
        {
            LibIbverbs.IbvPortAttr port = default;
            // One that fails stays as zeros, which is the state NOP.
            attributes[index] = LibIbverbs.ibv_query_port(context, (byte)(index + 1), &port) == 0 ? port : default;
            places += Math.Clamp(attributes[index].gid_tbl_len, 0, MaxGidTable);
        }
        var entries = new LibIbverbs.IbvGidEntry[places];
        int filled = ReadGidTable(context, entries);
        var ports = new RdmaPort[count];
        for (int index = 0; index < count; index++)
        {
            int number = index + 1;
            GidTableEntry[] gids = filled >= 0
                ? GidsOf(name, number, entries.AsSpan(0, filled), attributes[index].link_layer == LibIbverbs.IBV_LINK_LAYER_ETHERNET)
                : ReadGidsOneByOne(context, name, number, attributes[index]);
            ports[index] = MakePort(name, number, attributes[index], gids);
        }
        return ports;
    }

    private static RdmaPort MakePort(string device, int number, in LibIbverbs.IbvPortAttr attributes, GidTableEntry[] gids)
    {
        GidChoice choice = GidChoice.FromEnvironment(gids);
        double speed = RdmaPort.Speed(attributes.active_width, attributes.active_speed);
        return new RdmaPort
        {
            Number = number,
            State = attributes.state,
            ActiveMtu = attributes.active_mtu,
            LinkLayer = attributes.link_layer,
            Lid = attributes.lid,
            MaxMessageBytes = attributes.max_msg_sz,
            // Speeds beyond NDR do not fit into the byte; the kernel's text has them.
            GigabitsPerSecond = speed != 0 ? speed : RdmaDeviceFiles.GigabitsPerSecond(device, number),
            Gids = gids,
            GidChoice = choice,
            Unusable = attributes.state != LibIbverbs.IBV_PORT_ACTIVE
                ? WhyNotActive(device, number, attributes.state, attributes.link_layer)
                : choice.Candidates.Length == 0 ? choice.Reason : null,
        };
    }

    private static string WhyNotActive(string device, int number, int state, int linkLayer) => (state, linkLayer) switch
    {
        (LibIbverbs.IBV_PORT_NOP, _) => "it could not be asked for its state; look at the kernel log (dmesg)",
        (_, LibIbverbs.IBV_LINK_LAYER_ETHERNET) => RdmaDeviceFiles.NetworkDevice(device, number) is { } network
            ? $"bring its network interface up (ip link set {network} up) and look at the cable and the switch"
            : "bring its network interface up (rdma link shows which) and look at the cable and the switch",
        (LibIbverbs.IBV_PORT_INIT or LibIbverbs.IBV_PORT_ARMED, _) => "the link is up and the subnet's manager has not set it up: is one running (opensm)?",
        _ => "look at the cable and the switch (ibstat)",
    };

    // Entries, or -1 when the library or the kernel has no such call.
    private static int ReadGidTable(LibIbverbs.IbvContext* context, LibIbverbs.IbvGidEntry[] entries)
    {
        if (!LibIbverbs.HasGidEntries || entries.Length == 0)
        {
            return entries.Length == 0 ? 0 : -1;
        }
        fixed (LibIbverbs.IbvGidEntry* first = entries)
        {
            nint filled = LibIbverbs.ibv_query_gid_table(context, first, (nuint)entries.Length, 0);
            return filled >= 0 && filled <= entries.Length ? (int)filled : -1;
        }
    }

    private static GidTableEntry[] GidsOf(string device, int port, ReadOnlySpan<LibIbverbs.IbvGidEntry> entries, bool isEthernet)
    {
        var gids = new List<GidTableEntry>();
        foreach (LibIbverbs.IbvGidEntry entry in entries)
        {
            if (entry.port_num == port)
            {
                LibIbverbs.IbvGid gid = entry.gid;
                int index = (int)entry.gid_index;
                // The interface may be of another network namespace, where it has no number but a name.
                string? network = isEthernet || entry.ndev_ifindex != 0 ? RdmaDeviceFiles.GidNetworkDevice(device, port, index) : null;
                gids.Add(new GidTableEntry(index, new ReadOnlySpan<byte>(gid.raw, GidTableEntry.GidLength), (GidTableType)entry.gid_type, network));
            }
        }
        return [.. gids];
    }

    private static GidTableEntry[] ReadGidsOneByOne(LibIbverbs.IbvContext* context, string device, int port, in LibIbverbs.IbvPortAttr attributes)
    {
        var gids = new List<GidTableEntry>();
        int places = Math.Clamp(attributes.gid_tbl_len, 0, MaxGidTable);
        for (int index = 0; index < places; index++)
        {
            LibIbverbs.IbvGid gid = default;
            if (LibIbverbs.ibv_query_gid(context, (byte)port, index, &gid) != 0 || (gid.subnet_prefix | gid.interface_id) == 0)
            {
                continue;
            }
            GidTableType type = RdmaDeviceFiles.GidType(device, port, index, attributes.link_layer == LibIbverbs.IBV_LINK_LAYER_ETHERNET);
            string? network = RdmaDeviceFiles.GidNetworkDevice(device, port, index);
            gids.Add(new GidTableEntry(index, new ReadOnlySpan<byte>(gid.raw, GidTableEntry.GidLength), type, network));
        }
        return [.. gids];
    }

    [LoggerMessage(EventId = 2311, Message = "rdma: passed over {Device}: {Reason}")]
    private static partial void LogDevicePassedOver(ILogger logger, LogLevel level, string device, string reason);

    [LoggerMessage(EventId = 2312, Message = "rdma: passed over {Device} port {Port}, which is {State}: {Reason}")]
    private static partial void LogPortPassedOver(ILogger logger, LogLevel level, string device, int port, string state, string reason);

    [LoggerMessage(EventId = 2313, Level = LogLevel.Warning, Message = "rdma: {Warning}")]
    private static partial void LogWarning(ILogger logger, string warning);
}
