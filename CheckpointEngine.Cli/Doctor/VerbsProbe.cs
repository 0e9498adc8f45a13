using System.Globalization;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging.Abstractions;
using EngineDevice = CheckpointEngine.Transfer.Rdma.RdmaDevice;
using EnginePort = CheckpointEngine.Transfer.Rdma.RdmaPort;

namespace CheckpointEngine.Cli.Doctor;

/// <summary>Asks libibverbs what the engine would use on this host; opens devices and makes nothing that stays.</summary>
internal static class VerbsProbe
{
    /// <param name="list">The list of <c>--devices</c>; null for what the environment says.</param>
    public static VerbsFacts Examine(string? list)
    {
        HcaSelection wanted = list is null ? HcaSelection.FromEnvironment() : HcaSelection.FromList(list, "--devices");
        using RdmaDevices devices = RdmaDevices.Discover(wanted, NullLogger.Instance);
        string? selection = devices.Selection.Source is { } source ? $"{source}={devices.Selection.Text}" : null;
        return new VerbsFacts(devices.LibraryFound, selection, [.. devices.All.Select(Describe)], devices.Warnings, devices.WhyNone);
    }

    private static VerbsDevice Describe(EngineDevice device)
        => new(
            device.Name,
            device.NodeGuid.ToString("x16", CultureInfo.InvariantCulture),
            device.NumaNode >= 0 ? device.NumaNode : null,
            device.UsedPorts.Length != 0,
            device.Unusable,
            device.Limits?.MaxRegionBytes,
            device.Limits?.MaxQueuePairs,
            device.Limits?.MaxQueuePairRequests,
            device.Limits?.MaxCompletionQueueEntries,
            device.Limits?.MaxReadsServed,
            device.Limits?.MaxReadsInFlight,
            device.Handle?.SupportsDmaBuf(),
            [.. device.Ports.Select(port => Describe(port, device.UsedPorts.Contains(port)))]);

    private static VerbsPort Describe(EnginePort port, bool used)
        => new(
            port.Number,
            VerbsStatus.PortState(port.State),
            port.IsSelected,
            used,
            port.Unusable,
            VerbsStatus.LinkLayer(port.LinkLayer),
            port.Lid,
            VerbsStatus.MtuBytes(port.ActiveMtu),
            port.MaxMessageBytes,
            port.GigabitsPerSecond,
            port.GidChoice.Candidates is [{ } best, ..] ? best.Index : null,
            port.GidChoice.Reason,
            [.. port.GidChoice.Candidates.Skip(1).Select(entry => entry.Index)]);
}
