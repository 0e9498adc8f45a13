using System.Buffers.Text;
using System.Globalization;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Internal;

/// <summary>What the host can give: memory that is available, and how much of it may be locked.</summary>
internal static class HostMemory
{
    // What a process of ours takes beside what it holds: pieces that are being read and written, threads, TLS.
    private const long OwnNeedBytes = 32 << 20;

    /// <summary>
    /// Refuses an allocation that this host cannot fill. The kernel would grant it (overcommit) and kill the process at the first touch beyond.
    /// </summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/> with the sizes.</exception>
    internal static void ThrowIfBeyond(long lengthBytes, string subject) => ThrowIfBeyond(lengthBytes, 0, subject);

    /// <summary>As <see cref="ThrowIfBeyond(long, string)"/>, before all that a checkpoint takes: its control group must leave what it takes to read it, too.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/> with the sizes.</exception>
    internal static void ThrowIfCheckpointBeyond(long lengthBytes, string subject) => ThrowIfBeyond(lengthBytes, lengthBytes == 0 ? 0 : OwnNeedBytes, subject);

    private static void ThrowIfBeyond(long lengthBytes, long besideBytes, string subject)
    {
        (long available, long swapFree) = Available();
        if (available > 0 && lengthBytes > available)
        {
            ThrowHelper.Throw(CheckpointError.OutOfMemory,
                $"allocate {subject}: {lengthBytes:N0} bytes are asked for and {available:N0} available on this host (MemAvailable and SwapFree of /proc/meminfo)");
        }
        if (ControlGroup.FindTightest(swapFree) is { } group && lengthBytes > group.LeftBytes - besideBytes)
        {
            ThrowHelper.Throw(CheckpointError.OutOfMemory,
                $"allocate {subject}: {lengthBytes:N0} bytes are asked for{(besideBytes == 0 ? "" : $", some {besideBytes >> 20} MiB beside them,")} and {group.LeftBytes:N0} left of the {group.LimitBytes:N0} that this control group may have ({group.File}); raise the container's memory limit");
        }
    }

    /// <summary>What <see cref="ThrowIfBeyond(long, string)"/> would let through; <see cref="long.MaxValue"/> where the kernel does not tell.</summary>
    internal static long AvailableBytes()
    {
        (long available, long swapFree) = Available();
        return Math.Min(available > 0 ? available : long.MaxValue, ControlGroup.FindTightest(swapFree)?.LeftBytes ?? long.MaxValue);
    }

    /// <summary>Bytes that this process has locked (VmLck).</summary>
    internal static long LockedBytes() => StatusBytes("VmLck:"u8);

    /// <summary>A field of /proc/thread-self/status that counts KiB, in bytes; 0 where it is not told.</summary>
    internal static long StatusBytes(ReadOnlySpan<byte> name) => FieldKiB(ReadProc("/proc/thread-self/status"), name) << 10;

    /// <summary>RLIMIT_MEMLOCK in bytes; <see cref="long.MaxValue"/> when there is none. A process with CAP_IPC_LOCK is not held to it.</summary>
    internal static unsafe long LockLimitBytes()
    {
        Libc.RLimit limit;
        return Libc.getrlimit(Libc.RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur > long.MaxValue ? long.MaxValue : (long)limit.rlim_cur;
    }

    /// <summary>Whether the calling thread may lock beyond RLIMIT_MEMLOCK: bit 14 of the effective capabilities, which Linux keeps by thread.</summary>
    internal static bool HasIpcLock()
    {
        ReadOnlySpan<byte> field = Field(ReadProc("/proc/thread-self/status"), "CapEff:"u8);
        return Utf8Parser.TryParse(field, out ulong capabilities, out _, 'x') && (capabilities >> 14 & 1) != 0;
    }

    /// <summary>The text that tells which limit to raise so that <paramref name="moreBytes"/> can be locked beside what is locked now.</summary>
    internal static string LockAdvice(long moreBytes)
    {
        long page = Environment.SystemPageSize;
        long neededKiB = (LockedBytes() + moreBytes + page - 1) / page * page >> 10;
        long limit = LockLimitBytes();
        string limitText = limit == long.MaxValue ? "unlimited" : (limit >> 10).ToString(CultureInfo.InvariantCulture);
        return $"the limit on locked memory is {limitText} KiB; run with 'ulimit -l {neededKiB.ToString(CultureInfo.InvariantCulture)}' or more (systemd: LimitMEMLOCK, docker: --ulimit memlock)";
    }

    /// <summary>What stands behind a name in a file of /proc, with all that follows; empty when it is not there.</summary>
    internal static ReadOnlySpan<byte> ProcField(string path, ReadOnlySpan<byte> name) => Field(ReadProc(path), name);

    // With what can be swapped out, which is told once more by itself.
    private static (long AvailableBytes, long SwapFreeBytes) Available()
    {
        ReadOnlySpan<byte> meminfo = ReadProc("/proc/meminfo");
        long swapFree = FieldKiB(meminfo, "SwapFree:"u8) << 10;
        return ((FieldKiB(meminfo, "MemAvailable:"u8) << 10) + swapFree, swapFree);
    }

    private static long FieldKiB(ReadOnlySpan<byte> text, ReadOnlySpan<byte> name)
        => Utf8Parser.TryParse(Field(text, name), out long value, out _) ? value : 0;

    private static ReadOnlySpan<byte> Field(ReadOnlySpan<byte> text, ReadOnlySpan<byte> name)
    {
        int at = text.IndexOf(name);
        return at < 0 ? default : text[(at + name.Length)..].TrimStart(" \t"u8);
    }

    private static byte[] ReadProc(string path)
    {
        try
        {
            return File.ReadAllBytes(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }
}
