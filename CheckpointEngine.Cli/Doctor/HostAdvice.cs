namespace CheckpointEngine.Cli.Doctor;

/// <summary>What to change on a host; only what makes a difference to the engine.</summary>
internal static class HostAdvice
{
    private const long UsefulSocketBufferBytes = 4L << 20;

    public static IReadOnlyList<string> For(HostReport report)
    {
        var advice = new List<string>();
        if (report.Cpu.Missing.Count != 0)
        {
            advice.Add($"the CPU lacks {string.Join(", ", report.Cpu.Missing)}: the released binaries need x86-64-v3 and stop at their start; build for this host with -p:IlcInstructionSet=native");
        }
        if (report.Memory is { LockLimitBytes: { } limit, MayLockBeyondLimit: false } && limit < report.Memory.TotalBytes / 2)
        {
            advice.Add($"locked memory is limited to {Quantity.Bytes(limit)}: a checkpoint beyond that can be swapped out, and RDMA cannot register it; "
                + "raise it with 'ulimit -l unlimited' (containers: --ulimit memlock=-1, or --cap-add IPC_LOCK)");
        }
        if (report.Memory.TransparentHugePages == "never")
        {
            advice.Add("transparent huge pages are off: memory is touched up to ten times slower the first time; echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
        }
        if (report.PtraceScope >= 1)
        {
            advice.Add($"kernel.yama.ptrace_scope is {report.PtraceScope}: one process cannot copy straight out of another's memory unless it may trace it; same-host copies go another way");
        }
        if (report.Rdma.Devices.Count != 0)
        {
            AdviseRdma(report, advice);
        }
        if (report.Sockets.TcpReceiveBuffer is [_, _, < UsefulSocketBufferBytes] || report.Sockets.TcpSendBuffer is [_, _, < UsefulSocketBufferBytes])
        {
            advice.Add("tcp_rmem or tcp_wmem allow less than 4 MiB: one connection cannot fill a fast network; sysctl -w net.ipv4.tcp_rmem='4096 131072 33554432' net.ipv4.tcp_wmem='4096 16384 33554432'");
        }
        return advice;
    }

    private static void AdviseRdma(HostReport report, List<string> advice)
    {
        if (!report.Libraries.Any(library => library is { Name: "libibverbs.so.1", Found: true }))
        {
            advice.Add("there are RDMA devices but no libibverbs.so.1; apt-get install libibverbs1 ibverbs-providers");
        }
        if (!report.Rdma.DeviceFiles.Any(file => file.StartsWith("uverbs", StringComparison.Ordinal)))
        {
            advice.Add("there are RDMA devices but no /dev/infiniband/uverbs*: give them to the container (--device=/dev/infiniband) or load ib_uverbs");
        }
        if (report.Rdma.Verbs is not { LibraryFound: true } verbs)
        {
            advice.AddRange(report.Rdma.Devices.Where(device => !device.Ports.Any(port => port.State == "ACTIVE")).Select(device => $"no port of {device.Name} is active"));
            return;
        }
        advice.AddRange(verbs.Warnings);
        advice.AddRange(report.Rdma.Devices.Where(device => verbs.Devices.All(other => other.Name != device.Name)).Select(device =>
            $"libibverbs does not show {device.Name}: its /dev/infiniband/uverbs* is not here (containers: --device=/dev/infiniband), or its driver is not (ibverbs-providers)"));
        if (verbs.WhyNone is { } why)
        {
            advice.Add(why);
        }
        foreach (VerbsDevice device in verbs.WhyNone is null ? verbs.Devices : [])
        {
            if (device.Unusable is { } unusable)
            {
                advice.Add($"{device.Name} {unusable}");
            }
            else if (!device.Ports.Any(port => port.Unusable is null))
            {
                advice.AddRange(device.Ports.Select(port => $"{device.Name} port {port.Port} is {port.State} and cannot be used: {port.Unusable}"));
            }
        }
    }
}
