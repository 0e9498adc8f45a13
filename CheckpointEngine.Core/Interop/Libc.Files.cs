using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Interop;

internal static unsafe partial class Libc
{
    internal const int RWF_NOWAIT = 8;              // Linux 4.14

    internal const uint STATX_DIOALIGN = 0x2000;    // Linux 6.1

    /// <summary>Reads past the page cache; alone among the flags its value is the processor's, fcntl.h.</summary>
    internal static int O_DIRECT => RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? 0x10000 : 0x4000;

    /// <summary>Reads at an offset, pread(2). Bytes, 0 at the end of the file, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint pread(SafeFileHandle fd, void* buffer, nuint length, long offset);

    /// <summary>
    /// As <see cref="pread"/>, with flags, preadv2(2), glibc 2.26. With <see cref="RWF_NOWAIT"/> bytes up to the first that is not in the page cache;
    /// EAGAIN when that is the first of all, EOPNOTSUPP where the file system cannot tell.
    /// </summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint preadv2(SafeFileHandle fd, IoVec* vectors, int count, long offset, int flags);
}
