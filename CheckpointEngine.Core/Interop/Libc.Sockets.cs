using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

internal static unsafe partial class Libc
{
    internal const int MSG_NOSIGNAL = 0x4000;
    internal const int MSG_DONTWAIT = 0x40;
    internal const short POLLOUT = 4;

    /// <summary>Sends bytes, send(2). Bytes taken, or -1 and errno: EAGAIN when <see cref="MSG_DONTWAIT"/> finds the socket full, EFAULT when the memory is gone.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint send(int socket, void* bytes, nuint length, int flags);

    /// <summary>Waits for a descriptor, poll(2). 1 when something happened, 0 after the time, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int poll(PollFd* descriptors, nuint count, int timeoutMilliseconds);

    /// <summary><c>struct pollfd</c>; poll.h.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct PollFd
    {
        internal int fd;
        internal short events;
        internal short revents;
    }
}
