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
    IReadOnlyList<GpuFacts> Gpus,
    SocketFacts Sockets,
    IReadOnlyList<string> Advice);

/// <param name="Uuid">What inference servers call it.</param>
internal sealed record GpuFacts(string Uuid);

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
/// <param name="MayLockBeyondLimit">Whether this process has CAP_IPC_LOCK, and so is not held to the limit.</param>
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
    long? SharedMemoryFreeBytes,
    bool MayLockBeyondLimit);

internal sealed record HugePagePool(long PageBytes, long Total, long Free);

internal sealed record NumaNode(int Node, string Cpus, long? TotalBytes, long? FreeBytes);

/// <param name="DeviceFiles">Names under /dev/infiniband.</param>
/// <param name="Devices">Devices under /sys/class/infiniband.</param>
/// <param name="PeerMemory">The kernel's module that lets devices reach into NVIDIA memory, where it is loaded.</param>
/// <param name="Verbs">What libibverbs says of them; null for a host that is not this one.</param>
internal sealed record RdmaFacts(IReadOnlyList<string> DeviceFiles, IReadOnlyList<RdmaDevice> Devices, string? PeerMemory, VerbsFacts? Verbs);

internal sealed record RdmaDevice(string Name, string? Firmware, int? NumaNode, IReadOnlyList<RdmaPort> Ports);

internal sealed record RdmaPort(int Port, string? State, string? PhysicalState, string? Rate, string? LinkLayer, IReadOnlyList<RdmaGid> Gids);

internal sealed record RdmaGid(int Index, string Gid, string? Type, string? NetworkDevice);

/// <param name="LibraryFound">Whether libibverbs could be loaded.</param>
/// <param name="Selection">The variable or option that says which devices to use, with its value; null when none does.</param>
/// <param name="Devices">What the library found.</param>
/// <param name="Warnings">What is wrong with the selection.</param>
/// <param name="WhyNone">Why no device can be used; null when one can.</param>
internal sealed record VerbsFacts(
    bool LibraryFound, string? Selection, IReadOnlyList<VerbsDevice> Devices, IReadOnlyList<string> Warnings, string? WhyNone);

/// <param name="Used">Whether a port of it is used.</param>
/// <param name="Unusable">Why it cannot be used; null when its ports decide.</param>
/// <param name="MaxRegionBytes">The largest memory region.</param>
/// <param name="DmaBuf">Whether it takes memory of other devices by a dma-buf; null when it was not asked.</param>
internal sealed record VerbsDevice(
    string Name,
    string NodeGuid,
    int? NumaNode,
    bool Used,
    string? Unusable,
    ulong? MaxRegionBytes,
    int? MaxQueuePairs,
    int? MaxQueuePairRequests,
    int? MaxCompletionQueueEntries,
    int? MaxReadsServed,
    int? MaxReadsInFlight,
    bool? DmaBuf,
    IReadOnlyList<VerbsPort> Ports);

/// <param name="Selected">Whether the user's variables take it, or say nothing.</param>
/// <param name="Used">Whether it is used.</param>
/// <param name="Unusable">Why it cannot be used; null when it can.</param>
/// <param name="GidIndex">The GID under which connections are made; null when there is none.</param>
/// <param name="GidReason">Why that one, or why none.</param>
/// <param name="GidAlternatives">Those that are tried when the device refuses it.</param>
internal sealed record VerbsPort(
    int Port,
    string State,
    bool Selected,
    bool Used,
    string? Unusable,
    string LinkLayer,
    int Lid,
    int MtuBytes,
    uint MaxMessageBytes,
    double GigabitsPerSecond,
    int? GidIndex,
    string GidReason,
    IReadOnlyList<int> GidAlternatives);

/// <param name="Name">As it is loaded.</param>
/// <param name="Found">Whether it can be used.</param>
/// <param name="NeededFor">What for.</param>
/// <param name="Detail">Which release it is, or why it cannot be used; null when there is nothing to say.</param>
internal sealed record LibraryFacts(string Name, bool Found, string NeededFor, string? Detail = null);

internal sealed record SocketFacts(
    IReadOnlyList<long>? TcpReceiveBuffer, IReadOnlyList<long>? TcpSendBuffer, long? ReceiveBufferLimit, long? SendBufferLimit, string? CongestionControl);
