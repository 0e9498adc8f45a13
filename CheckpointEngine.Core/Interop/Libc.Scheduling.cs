using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

internal static unsafe partial class Libc
{
    internal const int PRIO_PROCESS = 0;

    internal const uint SCHED_OTHER = 0;
    internal const uint SCHED_BATCH = 3;

    internal const int MPOL_DEFAULT = 0;
    internal const int MPOL_INTERLEAVE = 3;

    /// <summary>The calling thread's id in the kernel, gettid(2); glibc 2.30.</summary>
    [LibraryImport(Library)]
    internal static partial int gettid();

    /// <summary>The nice value of a thread, setpriority(2); with <see cref="PRIO_PROCESS"/> Linux takes a thread's id. 0, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int setpriority(int which, uint who, int nice);

    /// <summary>As <see cref="setpriority"/>; the value, for which -1 is one as well.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int getpriority(int which, uint who);

    /// <summary>Says on which NUMA nodes untouched pages will come to lie, mbind(2). 0, or -1 and errno: ENOSYS in a kernel without NUMA, EPERM in some containers.</summary>
    internal static int mbind(void* address, nuint length, int mode, ulong* nodes, nuint maxNode)
        => (int)syscall(IsArm64 ? 235 : 237, (nint)address, (nint)length, mode, (nint)nodes, (nint)maxNode, 0);

    /// <summary>The calling thread's own memory policy, get_mempolicy(2). 0, or -1 and errno as <see cref="mbind"/>.</summary>
    internal static int get_mempolicy(int* mode) => (int)syscall(IsArm64 ? 236 : 239, (nint)mode, 0, 0, 0, 0, 0);

    /// <summary>The NUMA node that the page at an address lies on, get_mempolicy(2) with MPOL_F_NODE and MPOL_F_ADDR; brings the page in. 0, or -1 and errno.</summary>
    internal static int get_node_of(int* node, void* address) => (int)syscall(IsArm64 ? 236 : 239, (nint)node, 0, 0, (nint)address, 3, 0);

    /// <summary>How the kernel schedules a thread, sched_getattr(2). 0, or -1 and errno.</summary>
    internal static int sched_getattr(int thread, SchedAttributes* attributes)
        => (int)syscall(IsArm64 ? 275 : 315, thread, (nint)attributes, sizeof(SchedAttributes), 0, 0, 0);

    /// <summary>Changes it, sched_setattr(2). 0, or -1 and errno.</summary>
    internal static int sched_setattr(int thread, SchedAttributes* attributes)
        => (int)syscall(IsArm64 ? 274 : 314, thread, (nint)attributes, 0, 0, 0, 0);

    private static bool IsArm64 => RuntimeInformation.ProcessArchitecture == Architecture.Arm64;

    /// <summary>Sleeps, nanosleep(2); a signal ends it early. 0, or -1 and errno.</summary>
    [LibraryImport(Library)]
    internal static partial int nanosleep(TimeSpec* time, TimeSpec* left);

    /// <summary>Sets a variable of the C library's environment, setenv(3): that of native code, which .NET's own does not change. 0, or -1 and errno.</summary>
    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int setenv(string name, string value, int overwrite);

    /// <summary><c>struct sched_attr</c>, its first version; linux/sched/types.h.</summary>
    internal struct SchedAttributes
    {
        internal uint size;
        internal uint sched_policy;
        internal ulong sched_flags;
        internal int sched_nice;
        internal uint sched_priority;
        internal ulong sched_runtime;      // nanoseconds; the slice where the policy has no runtime
        internal ulong sched_deadline;
        internal ulong sched_period;
    }

    /// <summary><c>struct timespec</c>; time.h.</summary>
    internal struct TimeSpec
    {
        internal nint tv_sec;
        internal nint tv_nsec;
    }

    // The C library has none of these calls (those on NUMA are in libnuma).
    [LibraryImport(Library, SetLastError = true)]
    private static partial nint syscall(nint number, nint a, nint b, nint c, nint d, nint e, nint f);
}
