using System.Runtime.InteropServices;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Checkpoints;

/// <summary>Owns one mapping of whole pages, or stands for memory that somebody else owns.</summary>
/// <remarks>A transfer takes a reference while it runs: the pages are unmapped when the owner and the last of them have let go.</remarks>
internal sealed unsafe class MemoryRegionHandle : SafeHandle
{
    private static long s_liveBytes;
    private readonly nuint _mappedBytes;

    private MemoryRegionHandle(void* address, nuint mappedBytes, bool ownsHandle)
        : base(0, ownsHandle)
    {
        _mappedBytes = mappedBytes;
        SetHandle((nint)address);
        if (ownsHandle)
        {
            Interlocked.Add(ref s_liveBytes, (long)mappedBytes);
        }
    }

    /// <summary>Bytes of all mappings that are owned by handles and not yet unmapped.</summary>
    internal static long LiveBytes => Volatile.Read(ref s_liveBytes);

    public override bool IsInvalid => handle == 0;

    /// <summary>Maps <paramref name="lengthBytes"/> (not 0) at an address that is a multiple of 2 MiB, so that huge pages fit from the first byte.</summary>
    /// <param name="lengthBytes">Bytes; the kernel rounds up to pages.</param>
    /// <param name="protection">PROT_*.</param>
    /// <param name="flags">MAP_*, without MAP_FIXED.</param>
    /// <param name="fd">The file, -1 for none.</param>
    /// <param name="subject">What is mapped, for the message.</param>
    /// <exception cref="CheckpointEngineException">The kernel refused; the kind follows errno.</exception>
    internal static MemoryRegionHandle Map(nuint lengthBytes, int protection, int flags, int fd, string subject)
    {
        const nuint HugePage = 2 << 20;
        nuint pages = (lengthBytes + (nuint)Environment.SystemPageSize - 1) & ~((nuint)Environment.SystemPageSize - 1);
        byte* reserved = (byte*)Libc.mmap(null, pages + HugePage, Libc.PROT_NONE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_NORESERVE, -1, 0);
        if (reserved == Libc.MAP_FAILED)
        {
            ThrowHelper.ThrowNative("mmap", subject, Marshal.GetLastPInvokeError());
        }
        byte* start = (byte*)(((nuint)reserved + HugePage - 1) & ~(HugePage - 1));
        nuint before = (nuint)(start - reserved);
        if (Libc.mmap(start, pages, protection, flags | Libc.MAP_FIXED, fd, 0) == Libc.MAP_FAILED)
        {
            int errno = Marshal.GetLastPInvokeError();
            _ = Libc.munmap(reserved, pages + HugePage);
            ThrowHelper.ThrowNative("mmap", subject, errno);
        }
        if (before != 0)
        {
            _ = Libc.munmap(reserved, before);
        }
        if (before != HugePage)
        {
            _ = Libc.munmap(start + pages, HugePage - before);
        }
        return new MemoryRegionHandle(start, pages, ownsHandle: true);
    }

    /// <summary>Puts another mapping at all of these addresses; what was there is unmapped.</summary>
    /// <exception cref="CheckpointEngineException">The kernel refused; the kind follows errno.</exception>
    internal void Replace(int protection, int flags, int fd, string subject)
    {
        if (Libc.mmap((void*)handle, _mappedBytes, protection, flags | Libc.MAP_FIXED, fd, 0) == Libc.MAP_FAILED)
        {
            ThrowHelper.ThrowNative("mmap", subject, Marshal.GetLastPInvokeError());
        }
    }

    /// <summary>Stands for memory that the caller keeps.</summary>
    internal static MemoryRegionHandle Borrow(nint address) => new((void*)address, 0, ownsHandle: false);

    protected override bool ReleaseHandle()
    {
        if (Libc.munmap((void*)handle, _mappedBytes) != 0)
        {
            return false;
        }
        Interlocked.Add(ref s_liveBytes, -(long)_mappedBytes);   // counted down only once the pages are gone
        return true;
    }
}
