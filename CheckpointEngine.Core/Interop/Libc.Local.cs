using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

/// <summary>What two processes of one host share: descriptors over Unix sockets, each other's memory.</summary>
internal static unsafe partial class Libc
{
    internal const int ESRCH = 3;
    internal const int EFAULT = 14;
    internal const int ENODATA = 61;

    internal const int SO_PEERCRED = 17;
    internal const int SCM_RIGHTS = 1;
    internal const int MSG_CTRUNC = 0x08;
    internal const int MSG_CMSG_CLOEXEC = 0x40000000;

    internal const int PR_SET_PTRACER = 0x59616d61;

    internal const int F_SEAL_WRITE = 0x08;

    internal const int MADV_POPULATE_READ = 22;      // Linux 5.14

    internal const uint STATX_MODE = 0x002;
    internal const uint STATX_UID = 0x008;

    /// <summary>Sends bytes and descriptors over a socket, sendmsg(2). Bytes taken, or -1 and errno: EAGAIN when <see cref="MSG_DONTWAIT"/> finds the socket full,
    /// EFAULT when the memory is gone, ENOBUFS when <see cref="MSG_ZEROCOPY"/> may pin no more.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint sendmsg(int socket, MsgHdr* message, int flags);

    /// <summary>Copies memory of another process, process_vm_readv(2). Bytes copied, maybe fewer; or -1 and errno: EPERM, ESRCH, EFAULT.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint process_vm_readv(int process, IoVec* local, nuint localCount, IoVec* remote, nuint remoteCount, nuint flags);

    /// <summary>Operations on the calling process, prctl(2), here <see cref="PR_SET_PTRACER"/> of Yama. 0, or -1 and errno: EINVAL where there is no Yama.</summary>
    [LibraryImport(Library, SetLastError = true)]
    internal static partial int prctl(int option, nuint argument2, nuint argument3, nuint argument4, nuint argument5);

    /// <summary>The user that the process acts as, geteuid(2).</summary>
    [LibraryImport(Library)]
    internal static partial uint geteuid();

    /// <summary><c>struct iovec</c>; bits/types/struct_iovec.h.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IoVec
    {
        internal void* iov_base;
        internal nuint iov_len;
    }

    /// <summary><c>struct ucred</c>; bits/socket.h.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct UCred
    {
        internal int pid;
        internal uint uid;
        internal uint gid;
    }
}
