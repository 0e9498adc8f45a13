using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

internal static unsafe partial class Libc
{
    internal const uint RENAME_NOREPLACE = 1;
    internal const uint RENAME_EXCHANGE = 2;

    /// <summary>Makes what was written to a file, or the names in a directory, durable, fsync(2). 0, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int fsync(int fd);

    /// <summary>Renames, or exchanges two names at one moment, renameat2(2); glibc 2.28. 0, or -1 and errno: EINVAL where the file system cannot exchange.</summary>
    [LibraryImport(Library, SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int renameat2(int oldDirectoryFd, string oldPath, int newDirectoryFd, string newPath, uint flags);
}
