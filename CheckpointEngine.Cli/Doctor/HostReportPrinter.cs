using CheckpointEngine.Cli.Output;

namespace CheckpointEngine.Cli.Doctor;

/// <summary>Prints a report for people.</summary>
internal static class HostReportPrinter
{
    public static void Print(TextWriter output, HostReport report)
    {
        Row(output, "version", $"checkpoint-engine {report.Versions.CheckpointEngine} on {report.Versions.Runtime}");
        Row(output, "system", $"{report.Versions.OperatingSystem ?? "unknown"}, kernel {report.Versions.Kernel}");
        Row(output, "cpu", $"{report.Cpu.Count} x {report.Cpu.Model ?? "unknown"}, "
            + (report.Cpu.Missing.Count == 0 ? "has x86-64-v3 (AVX2, BMI2, FMA)" : "LACKS " + string.Join(", ", report.Cpu.Missing)));
        MemoryFacts memory = report.Memory;
        Row(output, "memory", $"{Bytes(memory.AvailableBytes)} of {Bytes(memory.TotalBytes)} available; /dev/shm {Bytes(memory.SharedMemoryFreeBytes)} of {Bytes(memory.SharedMemoryBytes)} free");
        Row(output, "memlock", $"soft {Limit(memory.LockLimitBytes)}, hard {Limit(memory.LockHardLimitBytes)}"
            + (memory is { MayLockBeyondLimit: true, LockLimitBytes: not null } ? "; this process has CAP_IPC_LOCK and is not held to it" : ""));
        Row(output, "huge pages", $"transparent: {memory.TransparentHugePages ?? "?"}, defrag {memory.TransparentHugePagesDefrag ?? "?"}, shmem {memory.TransparentHugePagesShmem ?? "?"}"
            + string.Concat(memory.HugePages.Select(pool => $"; {Quantity.Bytes(pool.PageBytes)}: {pool.Free} of {pool.Total} free")));
        foreach (NumaNode node in report.NumaNodes)
        {
            Row(output, $"numa {node.Node}", $"cpus {node.Cpus}, {Bytes(node.FreeBytes)} of {Bytes(node.TotalBytes)} free");
        }
        Row(output, "ptrace", report.PtraceScope is { } scope ? $"yama scope {scope}" : "not restricted by yama");
        PrintRdma(output, report.Rdma);
        foreach (LibraryFacts library in report.Libraries)
        {
            Row(output, "library", $"{library.Name}: {(library.Found ? "found" : "not found")} ({library.NeededFor}){(library.Detail is null ? "" : ": " + library.Detail)}");
        }
        foreach (GpuFacts gpu in report.Gpus)
        {
            Row(output, "gpu", gpu.Uuid);
        }
        Row(output, "sockets", $"tcp_rmem {Numbers(report.Sockets.TcpReceiveBuffer)}, tcp_wmem {Numbers(report.Sockets.TcpSendBuffer)}, {report.Sockets.CongestionControl ?? "?"}");
        output.WriteLine();
        output.WriteLine(report.Advice.Count == 0 ? "Nothing to change." : "To change:");
        foreach (string advice in report.Advice)
        {
            output.WriteLine("  - " + advice);
        }
    }

    private static void PrintRdma(TextWriter output, RdmaFacts rdma)
    {
        if (rdma.Devices.Count == 0)
        {
            Row(output, "rdma", "no device" + (rdma.DeviceFiles.Count == 0 ? "" : $", but /dev/infiniband has {string.Join(", ", rdma.DeviceFiles)}")
                + (rdma.Verbs is { LibraryFound: false } ? $"; {rdma.Verbs.WhyNone}" : ""));
            return;
        }
        foreach (RdmaDevice device in rdma.Devices)
        {
            VerbsDevice? verbs = rdma.Verbs?.Devices.FirstOrDefault(other => other.Name == device.Name);
            Row(output, "rdma", $"{device.Name}, firmware {(string.IsNullOrEmpty(device.Firmware) ? "?" : device.Firmware)}, numa node {(device.NumaNode is >= 0 ? device.NumaNode : "?")}"
                + (verbs is null && rdma.Verbs is { LibraryFound: true } ? ": NOT USABLE, libibverbs does not show it" : Use(verbs)));
            foreach (RdmaPort port in device.Ports)
            {
                PrintPort(output, port, verbs?.Ports.FirstOrDefault(other => other.Port == port.Port));
            }
            if (verbs?.MaxRegionBytes is { } maxRegion)
            {
                Row(output, "", $"limits: region {Quantity.Bytes(maxRegion)}, {verbs.MaxQueuePairs} queue pairs of {verbs.MaxQueuePairRequests} requests, "
                    + $"{verbs.MaxCompletionQueueEntries} completions, {verbs.MaxReadsInFlight} reads in flight, {verbs.MaxReadsServed} served"
                    + (verbs.DmaBuf is { } dmaBuf ? $"; dma-buf: {(dmaBuf ? "yes" : "no")}" : ""));
            }
        }
        Row(output, "", "/dev/infiniband: " + (rdma.DeviceFiles.Count == 0 ? "nothing" : string.Join(", ", rdma.DeviceFiles)));
        Row(output, "", $"NVIDIA peer memory: {rdma.PeerMemory ?? "no module"}");
        if (rdma.Verbs is { } all)
        {
            Row(output, "", $"selected: {all.Selection ?? "all (neither PS_P2P_STORE_RDMA_DEVICES nor NCCL_IB_HCA is set)"}");
            if (!all.LibraryFound)
            {
                Row(output, "", all.WhyNone ?? "");
            }
        }
    }

    private static void PrintPort(TextWriter output, RdmaPort port, VerbsPort? verbs)
    {
        Row(output, "", $"port {port.Port}: {port.State ?? "?"} ({port.PhysicalState ?? "?"}), {port.Rate ?? "?"}, {port.LinkLayer ?? "?"}"
            + (verbs is null ? "" : $", mtu {verbs.MtuBytes}, messages to {Quantity.Bytes(verbs.MaxMessageBytes)}{Use(verbs)}"));
        foreach (RdmaGid gid in port.Gids)
        {
            string choice = verbs is null ? ""
                : gid.Index == verbs.GidIndex ? $"  <- chosen: {verbs.GidReason}"
                : verbs.GidAlternatives.Contains(gid.Index) ? "  (tried when the chosen one is refused)"
                : "";
            Row(output, "", $"  gid {gid.Index}: {gid.Gid} {gid.Type} {gid.NetworkDevice}".TrimEnd() + choice);
        }
    }

    private static string Use(VerbsDevice? device) => device switch
    {
        null => "",
        { Used: true } => ": used",
        { Unusable: { } why } => $": NOT USABLE, {why}",
        _ => ": not used",
    };

    private static string Use(VerbsPort port) => port switch
    {
        { Used: true } => ": used",
        { Unusable: { } why } => $": NOT USABLE, {why}",
        { Selected: false } => ": not selected",
        _ => ": not used",
    };

    private static void Row(TextWriter output, string label, string text) => output.WriteLine($"{label,-11} {text}".TrimEnd());

    private static string Bytes(long? bytes) => bytes is { } known ? Quantity.Bytes(known) : "?";

    private static string Limit(long? bytes) => bytes is { } known ? Quantity.Bytes(known) : "unlimited";

    private static string Numbers(IReadOnlyList<long>? numbers) => numbers is null ? "?" : string.Join(' ', numbers);
}
