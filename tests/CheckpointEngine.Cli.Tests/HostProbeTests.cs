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
    public void Print_WhatLibibverbsSays_StandsBesideWhatTheKernelSays()
    {
        using var root = new TempDirectory();
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/gids/1", "fe80:0000:0000:0000:0000:0000:0000:0001\n");
        Write(root, "sys/class/infiniband/mlx5_0/ports/1/gids/3", "0000:0000:0000:0000:0000:ffff:0801:0203\n");
        Write(root, "sys/class/infiniband/mlx5_1/ports/1/state", "1: DOWN\n");
        Write(root, "sys/class/infiniband/rdmap0s6/device/vendor", "0x1d0f\n");
        Write(root, "sys/class/infiniband/mlx5_9/ports/1/state", "4: ACTIVE\n");
        Write(root, "sys/module/nvidia_peermem/version", "570.1\n");
        Write(root, "dev/infiniband/uverbs0", "");
        var verbs = new VerbsFacts(true, "NCCL_IB_HCA=mlx5", [
            Device("mlx5_0", null, new VerbsPort(1, "ACTIVE", true, true, null, "Ethernet", 0, 4096, 1u << 30, 400, 3, "routable, on a network interface", [1])),
            Device("mlx5_1", null, new VerbsPort(1, "DOWN", true, false, "ip link set eth1 up", "Ethernet", 0, 1024, 1u << 30, 0, null, "the GID table is empty", [])),
            Device("rdmap0s6", "is an EFA") with { MaxRegionBytes = null },
        ], ["NCCL_IB_HCA names mlx4, and no RDMA port begins so"], null);

        HostReport report = new HostProbe(root.Path, verbs).Examine();
        using var output = new StringWriter();
        HostReportPrinter.Print(output, report);

        string text = output.ToString();
        Assert.All(new[]
        {
            "mlx5_0, firmware ?, numa node ?: used", "mtu 4096, messages to 1.00 GiB: used", "<- chosen: routable, on a network interface",
            "fe80:0000:0000:0000:0000:0000:0000:0001  (tried when", "region 16.00 EiB", "dma-buf: yes", "mtu 1024, messages to 1.00 GiB: NOT USABLE, ip link set eth1 up",
            "NOT USABLE, is an EFA", "NVIDIA peer memory: nvidia_peermem", "selected: NCCL_IB_HCA=mlx5",
        }, part => Assert.Contains(part, text, StringComparison.Ordinal));
        string advice = string.Join('\n', report.Advice);
        Assert.All(new[] { "mlx5_1 port 1 is DOWN", "rdmap0s6 is an EFA", "names mlx4", "does not show mlx5_9" }, topic => Assert.Contains(topic, advice, StringComparison.Ordinal));
        Assert.DoesNotContain("no port of", advice, StringComparison.Ordinal);
    }

    [Fact]
    public void Print_NoLibrary_SaysSoInOneLine()
    {
        using var root = new TempDirectory();
        HostReport report = new HostProbe(root.Path, new VerbsFacts(false, null, [], [], "libibverbs.so.1 is not there: install rdma-core")).Examine();
        using var output = new StringWriter();
        HostReportPrinter.Print(output, report);
        Assert.Equal("rdma        no device; libibverbs.so.1 is not there: install rdma-core",
            Assert.Single(output.ToString().Split('\n'), line => line.StartsWith("rdma", StringComparison.Ordinal)));
    }

    [Fact]
    public void Examine_MayLockBeyondTheLimit_AdvisesNothingAboutIt()
    {
        using var root = new TempDirectory();
        Write(root, "proc/meminfo", "MemTotal:       1000000 kB\nMemAvailable:    900000 kB\n");
        Write(root, "proc/self/limits", "Max locked memory         65536                65536            bytes\n");
        Write(root, "proc/self/status", "Name:\tx\nCapEff:\t0000000000004000\n");
        HostReport report = new HostProbe(root.Path).Examine();
        Assert.True(report.Memory.MayLockBeyondLimit);
        Assert.DoesNotContain(report.Advice, advice => advice.Contains("ulimit", StringComparison.Ordinal));

        Write(root, "proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\n");
        Assert.Contains(new HostProbe(root.Path).Examine().Advice, advice => advice.Contains("--cap-add IPC_LOCK", StringComparison.Ordinal));
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

    private static VerbsDevice Device(string name, string? unusable, params VerbsPort[] ports)
        => new(name, "0c42a10300b2a1c4", 1, ports.Any(port => port.Used), unusable, ulong.MaxValue, 131072, 32768, 4194303, 16, 16, true, ports);

    private static void Write(TempDirectory root, string path, string content)
    {
        string full = Path.Combine(root.Path, path);
        Directory.CreateDirectory(Path.GetDirectoryName(full)!);
        File.WriteAllText(full, content);
    }
}
