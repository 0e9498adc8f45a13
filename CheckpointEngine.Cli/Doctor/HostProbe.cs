using System.Globalization;
using System.Runtime.InteropServices;
using CheckpointEngine.Inference;
using CheckpointEngine.Interop;
using CheckpointEngine.Transfer.Mooncake;

namespace CheckpointEngine.Cli.Doctor;

/// <summary>Reads what a host offers out of <c>/proc</c>, <c>/sys</c> and <c>/dev</c>; changes nothing and needs no rights.</summary>
/// <param name="root">Where those lie: <c>/</c>, or a copy in tests.</param>
/// <param name="verbs">What libibverbs says; when null it is asked if the host is this one, and else it is not.</param>
internal sealed class HostProbe(string root, VerbsFacts? verbs = null)
{
    private const int CapIpcLock = 14;   // linux/capability.h

    // Each makes NVIDIA memory reachable to ib_core; the first two with the driver of NVIDIA's own networking packages.
    private static readonly string[] s_peerMemory =
        ["sys/kernel/mm/memory_peers/nv_mem/version", "sys/kernel/mm/memory_peers/nv_mem_nc/version", "sys/module/nvidia_peermem/version"];

    // x86-64-v3 over the baseline, in the kernel's spelling (abm is LZCNT).
    private static readonly string[] s_neededFlags = ["avx", "avx2", "bmi1", "bmi2", "fma", "f16c", "abm", "movbe", "sse4_2", "popcnt", "ssse3", "cx16"];

    private static readonly (string Name, string NeededFor)[] s_libraries =
    [
        ("libibverbs.so.1", "RDMA"),
        ("libzmq.so.5", "inference workers that speak ZeroMQ"),
        ("libcuda.so.1", "memory of NVIDIA devices"),
    ];

    public HostReport Examine(string? devices = null)
    {
        var versions = new VersionFacts(EngineVersion.Text, RuntimeInformation.FrameworkDescription,
            ReadText("proc/sys/kernel/osrelease") ?? RuntimeInformation.OSDescription, ReadOperatingSystem());
        CpuFacts cpu = ReadCpu();
        MemoryFacts memory = ReadMemory();
        NumaNode[] nodes = ReadNumaNodes();
        RdmaFacts rdma = ReadRdma(devices);
        int? ptraceScope = (int?)ReadNumber("proc/sys/kernel/yama/ptrace_scope");
        LibraryFacts[] libraries = [.. s_libraries.Select(library => new LibraryFacts(library.Name, CanLoad(library.Name), library.NeededFor)), ReadMooncake()];
        var sockets = new SocketFacts(ReadNumbers("proc/sys/net/ipv4/tcp_rmem"), ReadNumbers("proc/sys/net/ipv4/tcp_wmem"),
            ReadNumber("proc/sys/net/core/rmem_max"), ReadNumber("proc/sys/net/core/wmem_max"), ReadText("proc/sys/net/ipv4/tcp_congestion_control"));
        var report = new HostReport(versions, cpu, memory, nodes, rdma, ptraceScope, libraries, ReadGpus(), sockets, []);
        return report with { Advice = HostAdvice.For(report) };
    }

    // What the driver shows, in the order in which an update takes them.
    private GpuFacts[] ReadGpus()
    {
        try
        {
            return root == "/" && CudaDevices.IsSupported(out _) ? [.. CudaDevices.Names().Select(name => new GpuFacts(name))] : [];
        }
        catch (CheckpointEngineException)
        {
            return [];      // a driver that does not answer: an update says what it says
        }
    }

    private string? ReadOperatingSystem()
        => ReadLines("etc/os-release").FirstOrDefault(line => line.StartsWith("PRETTY_NAME=", StringComparison.Ordinal)) is { } line
            ? line["PRETTY_NAME=".Length..].Trim('"')
            : null;

    private CpuFacts ReadCpu()
    {
        string? model = null;
        string[]? flags = null;
        foreach (string line in ReadLines("proc/cpuinfo"))
        {
            int colon = line.IndexOf(':');
            string key = colon < 0 ? "" : line[..colon].Trim();
            if (key == "model name")
            {
                model ??= line[(colon + 1)..].Trim();
            }
            else if (key == "flags")
            {
                flags = line[(colon + 1)..].Split(' ', StringSplitOptions.RemoveEmptyEntries);
                break;
            }
        }
        return new CpuFacts(model, Environment.ProcessorCount, flags is null ? [] : [.. s_neededFlags.Except(flags)]);
    }

    private MemoryFacts ReadMemory()
    {
        string[] limit = (ReadLines("proc/self/limits").FirstOrDefault(line => line.StartsWith("Max locked memory", StringComparison.Ordinal)) ?? "")
            .Split(' ', StringSplitOptions.RemoveEmptyEntries);
        (long? shared, long? sharedFree) = ReadDriveSpace("dev/shm");
        return new MemoryFacts(
            ReadKibibytes("proc/meminfo", "MemTotal:"),
            ReadKibibytes("proc/meminfo", "MemAvailable:"),
            limit.Length > 4 ? ParseNumber(limit[3]) : null,
            limit.Length > 4 ? ParseNumber(limit[4]) : null,
            ReadChoice("sys/kernel/mm/transparent_hugepage/enabled"),
            ReadChoice("sys/kernel/mm/transparent_hugepage/defrag"),
            ReadChoice("sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            [.. ReadHugePages()],
            shared,
            sharedFree,
            ReadCapabilities() is { } capabilities && (capabilities >> CapIpcLock & 1) != 0);
    }

    private ulong? ReadCapabilities()
    {
        string? line = ReadLines("proc/self/status").FirstOrDefault(line => line.StartsWith("CapEff:", StringComparison.Ordinal));
        return line is not null && ulong.TryParse(line.AsSpan("CapEff:".Length).Trim(), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong set) ? set : null;
    }

    private IEnumerable<HugePagePool> ReadHugePages()
    {
        foreach (string name in List("sys/kernel/mm/hugepages"))
        {
            string directory = "sys/kernel/mm/hugepages/" + name;
            string size = name.Replace("hugepages-", "", StringComparison.Ordinal).Replace("kB", "", StringComparison.Ordinal);
            if (ParseNumber(size) is { } kibibytes)
            {
                yield return new HugePagePool(kibibytes * 1024, ReadNumber(directory + "/nr_hugepages") ?? 0, ReadNumber(directory + "/free_hugepages") ?? 0);
            }
        }
    }

    private NumaNode[] ReadNumaNodes()
        => [.. List("sys/devices/system/node")
            .Where(name => name.StartsWith("node", StringComparison.Ordinal) && ParseNumber(name[4..]) is not null)
            .Select(name => (Path: "sys/devices/system/node/" + name, Node: int.Parse(name[4..], CultureInfo.InvariantCulture)))
            .OrderBy(entry => entry.Node)
            .Select(entry => new NumaNode(entry.Node, ReadText(entry.Path + "/cpulist") ?? "",
                ReadKibibytes(entry.Path + "/meminfo", "MemTotal:"), ReadKibibytes(entry.Path + "/meminfo", "MemFree:")))];

    private RdmaFacts ReadRdma(string? devices)
        => new(List("dev/infiniband"), [.. List("sys/class/infiniband").Select(ReadRdmaDevice)],
            s_peerMemory.FirstOrDefault(file => ReadText(file) is not null)?.Split('/')[^2],
            verbs ?? (root == "/" ? VerbsProbe.Examine(devices) : null));

    private RdmaDevice ReadRdmaDevice(string name)
    {
        string path = "sys/class/infiniband/" + name;
        return new RdmaDevice(name, ReadText(path + "/fw_ver"), (int?)ReadNumber(path + "/device/numa_node"),
            [.. List(path + "/ports").Where(port => ParseNumber(port) is not null).Select(port => ReadRdmaPort(path + "/ports/" + port, port))]);
    }

    private RdmaPort ReadRdmaPort(string path, string port)
        => new(int.Parse(port, CultureInfo.InvariantCulture), AfterColon(ReadText(path + "/state")), AfterColon(ReadText(path + "/phys_state")),
            ReadText(path + "/rate"), ReadText(path + "/link_layer"), [.. ReadGids(path)]);

    private IEnumerable<RdmaGid> ReadGids(string port)
    {
        foreach (int index in List(port + "/gids").Select(ParseNumber).OfType<long>().Order().Select(number => (int)number))
        {
            // A table has up to 256 places; the empty ones read as zeros, or fail.
            if (ReadText($"{port}/gids/{index}") is { } gid && gid.AsSpan().ContainsAnyExcept("0:"))
            {
                yield return new RdmaGid(index, gid, ReadText($"{port}/gid_attrs/types/{index}"), ReadText($"{port}/gid_attrs/ndevs/{index}"));
            }
        }
    }

    private (long? Total, long? Free) ReadDriveSpace(string path)
    {
        try
        {
            var drive = new DriveInfo(Path.Combine(root, path));
            return (drive.TotalSize, drive.AvailableFreeSpace);
        }
        catch (Exception absent) when (absent is IOException or UnauthorizedAccessException or ArgumentException)
        {
            return (null, null);
        }
    }

    private static LibraryFacts ReadMooncake()
    {
        string library = MooncakeEngine.LibraryFor(null);
        bool found = LibTransferEngine.TryLoad(library, out string? reason);
        string? detail = found ? LibTransferEngine.Release : library == MooncakeEngine.DefaultLibrary && reason!.Contains("cannot open", StringComparison.Ordinal) ? null : reason;
        return new LibraryFacts(library, found, "Mooncake's own transports (--transport mooncake)", detail);
    }

    private static bool CanLoad(string library)
    {
        if (!NativeLibrary.TryLoad(library, out nint handle))
        {
            return false;
        }
        NativeLibrary.Free(handle);
        return true;
    }

    private string? ReadText(string path)
    {
        try
        {
            return File.ReadAllText(Path.Combine(root, path)).Trim();
        }
        catch (Exception absent) when (absent is IOException or UnauthorizedAccessException)
        {
            return null;   // kernels and containers differ in what they show
        }
    }

    private string[] ReadLines(string path) => ReadText(path)?.Split('\n') ?? [];

    private string[] List(string path)
    {
        try
        {
            return [.. Directory.EnumerateFileSystemEntries(Path.Combine(root, path)).Select(entry => Path.GetFileName(entry)).Order(StringComparer.Ordinal)];
        }
        catch (Exception absent) when (absent is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    private long? ReadNumber(string path) => ReadText(path) is { } text ? ParseNumber(text) : null;

    private long[]? ReadNumbers(string path)
        => ReadText(path)?.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries).Select(ParseNumber).OfType<long>().ToArray();

    private long? ReadKibibytes(string path, string key)
    {
        foreach (string line in ReadLines(path))
        {
            int at = line.IndexOf(key, StringComparison.Ordinal);
            if (at >= 0)
            {
                return ParseNumber(line[(at + key.Length)..].Trim().Split(' ')[0]) * 1024;
            }
        }
        return null;
    }

    // "always [madvise] never" says madvise.
    private string? ReadChoice(string path)
        => ReadText(path) is { } text && text.IndexOf('[') is >= 0 and int open && text.IndexOf(']') is var close && close > open
            ? text[(open + 1)..close]
            : null;

    private static string? AfterColon(string? text) => text is null ? null : text[(text.IndexOf(':') + 1)..].Trim();

    private static long? ParseNumber(string text)
        => long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long value) ? value : null;
}
