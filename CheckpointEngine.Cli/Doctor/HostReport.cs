namespace CheckpointEngine.Cli.Doctor;

/// <summary>What <c>doctor</c> found; null where the host does not say.</summary>
internal sealed record HostReport(
    VersionFacts Versions,
    CpuFacts Cpu,
    MemoryFacts Memory,
    IReadOnlyList<NumaNode> NumaNodes,
    RdmaFacts Rdma,
    int? PtraceScope,
    IReadOnlyList<LibraryFacts> Libraries,
    SocketFacts Sockets,
    IReadOnlyList<string> Advice);

internal sealed record VersionFacts(string CheckpointEngine, string Runtime, string Kernel, string? OperatingSystem);

/// <param name="Model">As the kernel names it.</param>
/// <param name="Count">CPUs this process may run on.</param>
/// <param name="Missing">Instruction sets of x86-64-v3 that the CPU lacks, by the kernel's flag names. The released binaries need all of them.</param>
internal sealed record CpuFacts(string? Model, int Count, IReadOnlyList<string> Missing);

/// <param name="TotalBytes">Memory of the host.</param>
/// <param name="AvailableBytes">What could be had without swapping.</param>
/// <param name="LockLimitBytes">The soft limit of locked memory (<c>ulimit -l</c>); null is unlimited.</param>
/// <param name="LockHardLimitBytes">The hard one; null is unlimited.</param>
/// <param name="TransparentHugePages">always, madvise or never.</param>
/// <param name="TransparentHugePagesDefrag">How hard the kernel tries at a fault.</param>
/// <param name="TransparentHugePagesShmem">The same for memfds and /dev/shm.</param>
/// <param name="HugePages">Reserved huge pages by size.</param>
/// <param name="SharedMemoryBytes">Size of /dev/shm.</param>
/// <param name="SharedMemoryFreeBytes">What is free of it.</param>
internal sealed record MemoryFacts(
    long? TotalBytes,
    long? AvailableBytes,
    long? LockLimitBytes,
    long? LockHardLimitBytes,
    string? TransparentHugePages,
    string? TransparentHugePagesDefrag,
    string? TransparentHugePagesShmem,
    IReadOnlyList<HugePagePool> HugePages,
    long? SharedMemoryBytes,
    long? SharedMemoryFreeBytes);

internal sealed record HugePagePool(long PageBytes, long Total, long Free);

internal sealed record NumaNode(int Node, string Cpus, long? TotalBytes, long? FreeBytes);

/// <param name="DeviceFiles">Names under /dev/infiniband.</param>
/// <param name="Devices">Devices under /sys/class/infiniband.</param>
internal sealed record RdmaFacts(IReadOnlyList<string> DeviceFiles, IReadOnlyList<RdmaDevice> Devices);

internal sealed record RdmaDevice(string Name, string? Firmware, int? NumaNode, IReadOnlyList<RdmaPort> Ports);

internal sealed record RdmaPort(int Port, string? State, string? PhysicalState, string? Rate, string? LinkLayer, IReadOnlyList<RdmaGid> Gids);

internal sealed record RdmaGid(int Index, string Gid, string? Type, string? NetworkDevice);

internal sealed record LibraryFacts(string Name, bool Found, string NeededFor);

internal sealed record SocketFacts(
    IReadOnlyList<long>? TcpReceiveBuffer, IReadOnlyList<long>? TcpSendBuffer, long? ReceiveBufferLimit, long? SendBufferLimit, string? CongestionControl);
