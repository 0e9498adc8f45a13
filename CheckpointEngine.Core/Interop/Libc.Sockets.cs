using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

internal static unsafe partial class Libc
{
    internal const int ENOBUFS = 105;

    internal const int SOL_SOCKET = 1;
    internal const int SO_ZEROCOPY = 60;             // Linux 4.14
    internal const int AF_UNSPEC = 0;

    internal const int MSG_DONTWAIT = 0x40;
    internal const int MSG_ERRQUEUE = 0x2000;
    internal const int MSG_NOSIGNAL = 0x4000;
    internal const int MSG_MORE = 0x8000;
    internal const int MSG_ZEROCOPY = 0x400_0000;    // Linux 4.14

    internal const byte SO_EE_ORIGIN_ZEROCOPY = 5;
    internal const byte SO_EE_CODE_ZEROCOPY_COPIED = 1;

    internal const short POLLIN = 1;
    internal const short POLLOUT = 4;

    internal const int F_GETFL = 3;
    internal const int F_SETFL = 4;
    internal const int O_RDWR = 2;

    internal const uint EPOLLIN = 0x01;
    internal const uint EPOLLOUT = 0x04;
    internal const uint EPOLLERR = 0x08;
    internal const uint EPOLLHUP = 0x10;
    internal const uint EPOLLONESHOT = 1u << 30;
    internal const int EPOLL_CLOEXEC = 0x80000;
    internal const int EPOLL_CTL_ADD = 1;
    internal const int EPOLL_CTL_DEL = 2;
    internal const int EPOLL_CTL_MOD = 3;
    internal const int EFD_CLOEXEC = 0x80000;

    /// <summary>Receives bytes, recv(2). Bytes, 0 at the end, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint recv(int socket, void* bytes, nuint length, int flags);

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

    /// <summary>Receives a message with what the kernel says about it, recvmsg(2). Bytes, or -1 and errno: EAGAIN when there is none.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint recvmsg(int socket, MsgHdr* message, int flags);

    /// <inheritdoc cref="recvmsg(int, MsgHdr*, int)"/>
    /// <remarks>The handle keeps the descriptor from being closed meanwhile.</remarks>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint recvmsg(SafeHandle socket, MsgHdr* message, int flags);

    /// <summary>With an address of the family <see cref="AF_UNSPEC"/>: breaks a TCP connection and drops what waits to be sent, connect(2). 0, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int connect(int socket, void* address, uint lengthBytes);

    /// <summary>Makes a set of descriptors to be waited for, epoll_create1(2). A descriptor, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int epoll_create1(int flags);

    /// <summary>Changes what is waited for, epoll_ctl(2); the event as <see cref="EpollEvent"/> writes it. 0, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int epoll_ctl(int epoll, int operation, int fd, void* @event);

    /// <summary>Waits, epoll_wait(2). Events filled in, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int epoll_wait(int epoll, void* events, int count, int timeoutMilliseconds);

    /// <summary>Makes a counter that can be waited for, eventfd(2). A descriptor, or -1 and errno.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int eventfd(uint initial, int flags);

    /// <summary><c>struct epoll_event</c>; sys/epoll.h: packed on x86-64, aligned elsewhere.</summary>
    internal static class EpollEvent
    {
        /// <summary>Room for one on any machine.</summary>
        internal const int MaxSize = 16;

        private static int DataOffset => RuntimeInformation.ProcessArchitecture == Architecture.X64 ? 4 : 8;

        internal static void Write(void* @event, uint events, nint data)
        {
            *(uint*)@event = events;
            *(nint*)((byte*)@event + DataOffset) = data;
        }

        internal static uint Events(void* @event) => *(uint*)@event;

        internal static nint Data(void* @event) => *(nint*)((byte*)@event + DataOffset);
    }

    /// <summary><c>struct msghdr</c>; bits/socket.h.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct MsgHdr
    {
        internal void* msg_name;
        internal uint msg_namelen;
        internal IoVec* msg_iov;
        internal nuint msg_iovlen;
        internal void* msg_control;
        internal nuint msg_controllen;
        internal int msg_flags;
    }

    /// <summary><c>struct cmsghdr</c>; bits/socket.h. What it carries follows it.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct CMsgHdr
    {
        internal nuint cmsg_len;
        internal int cmsg_level;
        internal int cmsg_type;
    }

    /// <summary><c>struct sock_extended_err</c>; linux/errqueue.h. Of zero-copy sends: <c>ee_info</c> to <c>ee_data</c> are done, each counted from 0.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct SockExtendedErr
    {
        internal uint ee_errno;
        internal byte ee_origin;
        internal byte ee_type;
        internal byte ee_code;
        internal byte ee_pad;
        internal uint ee_info;
        internal uint ee_data;
    }
}
