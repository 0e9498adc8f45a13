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
        Row(output, "memlock", $"soft {Limit(memory.LockLimitBytes)}, hard {Limit(memory.LockHardLimitBytes)}");
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
            Row(output, "library", $"{library.Name}: {(library.Found ? "found" : "not found")} ({library.NeededFor})");
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
            Row(output, "rdma", "no device" + (rdma.DeviceFiles.Count == 0 ? "" : $", but /dev/infiniband has {string.Join(", ", rdma.DeviceFiles)}"));
            return;
        }
        foreach (RdmaDevice device in rdma.Devices)
        {
            Row(output, "rdma", $"{device.Name}, firmware {device.Firmware ?? "?"}, numa node {device.NumaNode?.ToString() ?? "?"}");
            foreach (RdmaPort port in device.Ports)
            {
                Row(output, "", $"port {port.Port}: {port.State ?? "?"} ({port.PhysicalState ?? "?"}), {port.Rate ?? "?"}, {port.LinkLayer ?? "?"}");
                foreach (RdmaGid gid in port.Gids)
                {
                    Row(output, "", $"  gid {gid.Index}: {gid.Gid} {gid.Type} {gid.NetworkDevice}");
                }
            }
        }
        Row(output, "", "/dev/infiniband: " + (rdma.DeviceFiles.Count == 0 ? "nothing" : string.Join(", ", rdma.DeviceFiles)));
    }

    private static void Row(TextWriter output, string label, string text) => output.WriteLine($"{label,-11} {text}".TrimEnd());

    private static string Bytes(long? bytes) => bytes is { } known ? Quantity.Bytes(known) : "?";

    private static string Limit(long? bytes) => bytes is { } known ? Quantity.Bytes(known) : "unlimited";

    private static string Numbers(IReadOnlyList<long>? numbers) => numbers is null ? "?" : string.Join(' ', numbers);
}
