using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

/// <summary>The C library: memory, and files by descriptor.</summary>
/// <remarks>Values are Linux's on 64-bit little-endian machines. Source: glibc 2.36 headers and the man pages named at each call.</remarks>
internal static unsafe partial class Libc
{
    private const string Library = "libc";

    internal const int EPERM = 1;
    internal const int ENOENT = 2;
    internal const int EINTR = 4;
    internal const int EAGAIN = 11;
    internal const int ENOMEM = 12;
    internal const int EINVAL = 22;
    internal const int ENOSYS = 38;
    internal const int EOPNOTSUPP = 95;

    internal const int PROT_NONE = 0;
    internal const int PROT_READ = 1;
    internal const int PROT_WRITE = 2;

    internal const int MAP_SHARED = 0x01;
    internal const int MAP_PRIVATE = 0x02;
    internal const int MAP_FIXED = 0x10;
    internal const int MAP_ANONYMOUS = 0x20;
    internal const int MAP_NORESERVE = 0x4000;

    /// <summary>What <see cref="mmap"/> returns when it failed.</summary>
    internal static readonly void* MAP_FAILED = (void*)-1;

    internal const int MADV_WILLNEED = 3;
    internal const int MADV_HUGEPAGE = 14;
    internal const int MADV_WIPEONFORK = 18;

    internal const uint MLOCK_ONFAULT = 1;

    internal const uint MFD_CLOEXEC = 1;
    internal const uint MFD_ALLOW_SEALING = 2;

    internal const int F_DUPFD_CLOEXEC = 1030;
    internal const int F_ADD_SEALS = 1033;
    internal const int F_GET_SEALS = 1034;
    internal const int F_SEAL_SEAL = 0x01;
    internal const int F_SEAL_SHRINK = 0x02;
    internal const int F_SEAL_GROW = 0x04;
    internal const int F_SEAL_FUTURE_WRITE = 0x10;   // Linux 5.1

    internal const int O_RDONLY = 0;
    internal const int O_NONBLOCK = 0x800;
    internal const int O_CLOEXEC = 0x80000;

    internal const int AT_FDCWD = -100;
    internal const int AT_EMPTY_PATH = 0x1000;
    internal const uint STATX_TYPE = 0x001;
    internal const uint STATX_SIZE = 0x200;
    internal const ushort S_IFMT = 0xF000;
    internal const ushort S_IFREG = 0x8000;
    internal const ushort S_IFDIR = 0x4000;

    internal const int RLIMIT_FSIZE = 1;
    internal const int RLIMIT_DATA = 2;
    internal const int RLIMIT_NOFILE = 7;
    internal const int RLIMIT_MEMLOCK = 8;
    internal const int RLIMIT_AS = 9;
    internal const ulong RLIM_INFINITY = ulong.MaxValue;

    /// <summary>Random bytes, getrandom(2); glibc 2.25. How many, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint getrandom(void* buffer, nuint length, uint flags);

    /// <summary>Maps memory, mmap(2). The address, or <see cref="MAP_FAILED"/> and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial void* mmap(void* address, nuint length, int protection, int flags, int fd, long offset);

    /// <summary>Unmaps whole pages, munmap(2). 0, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int munmap(void* address, nuint length);

    /// <summary>Tells the kernel how memory will be used, madvise(2). 0, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int madvise(void* address, nuint length, int advice);

    /// <summary>Faults pages in and keeps them in memory, mlock(2). 0, or -1 and errno: ENOMEM above the limit, EPERM without the right, EAGAIN.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int mlock(void* address, nuint length);

    /// <summary>As <see cref="mlock"/>; with <see cref="MLOCK_ONFAULT"/> pages are kept once touched instead of faulted in. Linux 4.4, glibc 2.27.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int mlock2(void* address, nuint length, uint flags);

    /// <summary>Ends <see cref="mlock"/>. 0, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int munlock(void* address, nuint length);

    /// <summary>Makes an anonymous file in memory, memfd_create(2). A descriptor, or -1 and errno. The name is at most 249 bytes and for /proc only.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int memfd_create(byte* name, uint flags);

    /// <summary>Sets a file's length, ftruncate(2). 0, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int ftruncate(int fd, long length);

    /// <summary>Commands on a descriptor, here the seals of a memfd and a copy of it, fcntl(2). The command's result, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int fcntl(int fd, int command, int argument);

    /// <summary>Opens a file without creating one, open(2). A descriptor, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int open(byte* path, int flags);

    /// <summary>Type and size of a file, statx(2). 0, or -1 and errno. With <see cref="AT_EMPTY_PATH"/> and an empty path it asks about the descriptor.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int statx(int directoryFd, byte* path, int flags, uint mask, Statx* result);

    /// <summary>Reads a limit of this process, getrlimit(2). 0, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int getrlimit(int resource, RLimit* limit);

    /// <summary>The fields of <c>struct statx</c> that are used here; linux/stat.h, 256 bytes on every machine.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    internal struct Statx
    {
        [FieldOffset(0)]
        internal uint stx_mask;

        [FieldOffset(20)]
        internal uint stx_uid;

        [FieldOffset(28)]
        internal ushort stx_mode;

        [FieldOffset(32)]
        internal ulong stx_ino;

        [FieldOffset(40)]
        internal ulong stx_size;

        /// <summary>With <see cref="STATX_DIOALIGN"/> in <see cref="stx_mask"/>: what the memory of a read past the page cache is to be a multiple of; 0 where there is none.</summary>
        [FieldOffset(152)]
        internal uint stx_dio_mem_align;

        /// <summary>As <see cref="stx_dio_mem_align"/>, for offset and length.</summary>
        [FieldOffset(156)]
        internal uint stx_dio_offset_align;
    }

    /// <summary><c>struct rlimit</c>; bits/resource.h.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct RLimit
    {
        internal ulong rlim_cur;
        internal ulong rlim_max;
    }
}
