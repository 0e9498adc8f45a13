using CheckpointEngine.Interop;

namespace CheckpointEngine.Internal;

/// <summary>Limits of this process (setrlimit(2)) that end it where they are met on the way: by SIGXFSZ, or since no thread can be started any more.</summary>
internal static unsafe class ProcessLimits
{
    // Left for threads to come, 8 MiB of stack each, and for the collector: a pool that cannot start one ends the process.
    private const long OwnNeedBytes = 256 << 20;

    /// <summary>Refuses a mapping beyond the limit on this process's addresses.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>.</exception>
    internal static void ThrowIfBeyondAddresses(long lengthBytes, string subject) => ThrowIfBeyond(Libc.RLIMIT_AS, "VmSize:"u8, lengthBytes, subject, "addresses", "ulimit -v", "LimitAS");

    /// <summary>Refuses private memory beyond the limits on it and on addresses.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>.</exception>
    internal static void ThrowIfBeyondMemory(long lengthBytes, string subject)
    {
        ThrowIfBeyondAddresses(lengthBytes, subject);
        ThrowIfBeyond(Libc.RLIMIT_DATA, "VmData:"u8, lengthBytes, subject, "private memory", "ulimit -d", "LimitDATA");
    }

    /// <summary>Refuses a file, or memory that is one, beyond the limit on the size of files: the kernel would end the process.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Io"/>.</exception>
    internal static void ThrowIfBeyondFileSize(long lengthBytes, string subject)
    {
        long limit = Limit(Libc.RLIMIT_FSIZE);
        if (lengthBytes > limit)
        {
            ThrowHelper.Throw(CheckpointError.Io,
                $"write {subject}: it has {lengthBytes:N0} bytes, and files of this process may have {limit:N0}; run with 'ulimit -f unlimited' (systemd: LimitFSIZE)");
        }
    }

    private static void ThrowIfBeyond(int resource, ReadOnlySpan<byte> used, long lengthBytes, string subject, string what, string command, string directive)
    {
        long limit = Limit(resource);
        if (limit == long.MaxValue)
        {
            return;
        }
        long left = Math.Max(0, limit - HostMemory.StatusBytes(used) - OwnNeedBytes);
        if (lengthBytes > left)
        {
            ThrowHelper.Throw(CheckpointError.OutOfMemory,
                $"allocate {subject}: {lengthBytes:N0} bytes are asked for and {left:N0} left of this process's limit on {what}, {limit:N0}; run with '{command} unlimited' (systemd: {directive})");
        }
    }

    private static long Limit(int resource)
    {
        Libc.RLimit limit;
        return Libc.getrlimit(resource, &limit) != 0 || limit.rlim_cur > long.MaxValue ? long.MaxValue : (long)limit.rlim_cur;
    }
}
