using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

internal static unsafe partial class Libc
{
    /// <summary>Sends a part of a file over a socket without copying it to user space, sendfile(2). Bytes sent, 0 at the file's end, or -1 and errno: EAGAIN while a non-blocking socket is full.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint sendfile(int socket, int file, long* offset, nuint count);
}
