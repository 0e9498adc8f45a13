using CheckpointEngine.Cli.Doctor;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>The doctor on hosts that are not here: made of files.</summary>
public sealed class HostProbeTests
{
    [Fact]
    public void Examine_HostWithRdma_ReadsDevicesPortsAndGids()
    {
        using var root = new TempDirectory();
        Write(root, "sys/class/infiniband/mlx5_0/fw_ver", "28.39.1002\n");
        Write(root, "sys/class/infiniband/mlx5_0/device/numa_node", "1\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/phys_state", "5: LinkUp\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/link_layer", "Ethernet\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/gids/0", "0000:0000:0000:0000:0000:0000:0000:0000\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/gids/3", "0000:0000:0000:0000:0000:ffff:0a00:0005\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/gid_attrs/types/3", "RoCE v2\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/gid_attrs/ndevs/3", "eth0\n");
        Write(root, "dev/infiniband/uverbs0", "");

        RdmaFacts rdma = new HostProbe(root.Path).Examine().Rdma;

        RdmaDevice device = Assert.Single(rdma.Devices);
        Assert.Equal(("mlx5_0", "28.39.1002", 1), (device.Name, device.Firmware, device.NumaNode));
        RdmaPort port = Assert.Single(device.Ports);
        Assert.Equal((1, "ACTIVE", "LinkUp", "400 Gb/sec (4X NDR)", "Ethernet"), (port.Port, port.State, port.PhysicalState, port.Rate, port.LinkLayer));
        Assert.Equal(new RdmaGid(3, "0000:0000:0000:0000:0000:ffff:0a00:0005", "RoCE v2", "eth0"), Assert.Single(port.Gids));
        Assert.Equal(["uverbs0"], rdma.DeviceFiles);
    }

    [Fact]
    public void Examine_PoorHost_AdvisesWhatToChange()
    {
        using var root = new TempDirectory();
        Write(root, "proc/cpuinfo", "model name\t: Old CPU\nflags\t\t: fpu sse4_2 popcnt ssse3 cx16 avx\n");
        Write(root, "proc/meminfo", "MemTotal:       1000000 kB\nMemAvailable:    900000 kB\n");
        Write(root, "proc/self/limits", "Limit                     Soft Limit           Hard Limit           Units\nMax locked memory         65536                unlimited            bytes\n");
        Write(root, "sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
        Write(root, "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n");
        Write(root, "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "3\n");
        Write(root, "sys/devices/system/node/node0/cpulist", "0-7\n");
        Write(root, "sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:       500 kB\nNode 0 MemFree:        400 kB\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/state", "1: DOWN\n");
        Write(root, "proc/sys/kernel/yama/ptrace_scope", "1\n");
        Write(root, "proc/sys/net/ipv4/tcp_rmem", "4096 87380 212992\n");

        HostReport report = new HostProbe(root.Path).Examine();

        Assert.Equal(["avx2", "bmi1", "bmi2", "fma", "f16c", "abm", "movbe"], report.Cpu.Missing);
        Assert.Equal((65536, null), (report.Memory.LockLimitBytes, report.Memory.LockHardLimitBytes));
        Assert.Equal(new HugePagePool(2 << 20, 8, 3), Assert.Single(report.Memory.HugePages));
        Assert.Equal(new NumaNode(0, "0-7", 500 * 1024, 400 * 1024), Assert.Single(report.NumaNodes));
        string advice = string.Join('\n', report.Advice);
        Assert.All(new[] { "avx2", "ulimit -l", "transparent huge pages are off", "ptrace_scope", "uverbs", "mlx5_0 is active", "tcp_rmem" },
            topic => Assert.Contains(topic, advice, StringComparison.Ordinal));
    }

    [Fact]
    public void Examine_HostThatShowsNothing_StillReports()
    {
        using var root = new TempDirectory();
        HostReport report = new HostProbe(root.Path).Examine();
        Assert.Null(report.Memory.TotalBytes);
        Assert.Empty(report.NumaNodes);
        HostReportPrinter.Print(TextWriter.Null, report);
    }

    private static void Write(TempDirectory root, string path, string content)
    {
        string full = Path.Combine(root.Path, path);
        Directory.CreateDirectory(Path.GetDirectoryName(full)!);
        File.WriteAllText(full, content);
    }
}
