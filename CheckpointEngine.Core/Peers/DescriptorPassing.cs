using System.Net.Sockets;
using System.Runtime.InteropServices;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Peers;

/// <summary>Sends a few bytes together with a descriptor over a Unix socket, and receives them.</summary>
/// <remarks>Source: SCM_RIGHTS, unix(7); cmsg(3). A descriptor arrives as a new one of the receiver, close-on-exec.</remarks>
internal static unsafe class DescriptorPassing
{
    // A header, one descriptor, and the padding that CMSG_SPACE(sizeof(int)) adds.
    private const int ControlBytes = 24;

    // Room for more than was agreed on, so that a peer that sends several is found out and what it sent is closed, not leaked.
    private const int MaxDescriptors = 8;

    /// <summary>Sends all of <paramref name="bytes"/> at once, with <paramref name="file"/>.</summary>
    /// <exception cref="SocketException">The connection broke, or the peer has left so much unread that a small message finds no room.</exception>
    internal static void Send(Socket socket, ReadOnlySpan<byte> bytes, SafeFileHandle file)
    {
        bool heldSocket = false, heldFile = false;
        try
        {
            socket.SafeHandle.DangerousAddRef(ref heldSocket);
            file.DangerousAddRef(ref heldFile);
            byte* control = stackalloc byte[ControlBytes];
            new Span<byte>(control, ControlBytes).Clear();
            var header = (Libc.CMsgHdr*)control;
            header->cmsg_len = (nuint)(sizeof(Libc.CMsgHdr) + sizeof(int));
            header->cmsg_level = Libc.SOL_SOCKET;
            header->cmsg_type = Libc.SCM_RIGHTS;
            *(int*)(header + 1) = (int)file.DangerousGetHandle();
            fixed (byte* start = bytes)
            {
                var vector = new Libc.IoVec { iov_base = start, iov_len = (nuint)bytes.Length };
                var message = new Libc.MsgHdr { msg_iov = &vector, msg_iovlen = 1, msg_control = control, msg_controllen = ControlBytes };
                nint sent;
                do
                {
                    sent = Libc.sendmsg((int)socket.Handle, &message, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
                }
                while (sent < 0 && Marshal.GetLastPInvokeError() == Libc.EINTR);
                if (sent != bytes.Length)
                {
                    throw new SocketException(sent < 0 ? Marshal.GetLastPInvokeError() : Libc.EAGAIN);
                }
            }
        }
        finally
        {
            if (heldFile)
            {
                file.DangerousRelease();
            }
            if (heldSocket)
            {
                socket.SafeHandle.DangerousRelease();
            }
        }
    }

    /// <summary>Receives what is there, at most <paramref name="bytes"/>; call it when the socket is readable.</summary>
    /// <param name="socket">The socket.</param>
    /// <param name="bytes">Filled from the front.</param>
    /// <param name="file">The descriptor that came with them, the caller's to dispose; null when none or more than one came.</param>
    /// <returns>Bytes; 0 when the peer has closed, -1 when nothing is there yet.</returns>
    /// <exception cref="SocketException">The connection broke.</exception>
    internal static int Receive(Socket socket, Span<byte> bytes, out SafeFileHandle? file)
    {
        file = null;
        bool held = false;
        try
        {
            socket.SafeHandle.DangerousAddRef(ref held);
            int controlBytes = sizeof(Libc.CMsgHdr) + MaxDescriptors * sizeof(int);
            byte* control = stackalloc byte[controlBytes];
            fixed (byte* start = bytes)
            {
                var vector = new Libc.IoVec { iov_base = start, iov_len = (nuint)bytes.Length };
                var message = new Libc.MsgHdr { msg_iov = &vector, msg_iovlen = 1, msg_control = control, msg_controllen = (nuint)controlBytes };
                nint received;
                do
                {
                    received = Libc.recvmsg((int)socket.Handle, &message, Libc.MSG_DONTWAIT | Libc.MSG_CMSG_CLOEXEC);
                }
                while (received < 0 && Marshal.GetLastPInvokeError() == Libc.EINTR);
                if (received < 0)
                {
                    int errno = Marshal.GetLastPInvokeError();
                    return errno == Libc.EAGAIN ? -1 : throw new SocketException(errno);
                }
                file = TakeDescriptor(message);
                return (int)received;
            }
        }
        finally
        {
            if (held)
            {
                socket.SafeHandle.DangerousRelease();
            }
        }
    }

    private static SafeFileHandle? TakeDescriptor(in Libc.MsgHdr message)
    {
        var header = (Libc.CMsgHdr*)message.msg_control;
        if ((message.msg_flags & Libc.MSG_CTRUNC) != 0 && message.msg_controllen < (nuint)(sizeof(Libc.CMsgHdr) + sizeof(int)))
        {
            ThrowHelper.Throw(CheckpointError.NotSupported, "a descriptor came and was dropped: this process may have no more; raise its limit of open files (ulimit -n)");
        }
        if (message.msg_controllen < (nuint)sizeof(Libc.CMsgHdr) || header->cmsg_level != Libc.SOL_SOCKET || header->cmsg_type != Libc.SCM_RIGHTS)
        {
            return null;
        }
        int count = (int)(Math.Min(header->cmsg_len, message.msg_controllen) - (nuint)sizeof(Libc.CMsgHdr)) / sizeof(int);
        var descriptors = new ReadOnlySpan<int>(header + 1, count);
        if (count == 1 && (message.msg_flags & Libc.MSG_CTRUNC) == 0)
        {
            return new SafeFileHandle(descriptors[0], ownsHandle: true);
        }
        foreach (int descriptor in descriptors)
        {
            new SafeFileHandle(descriptor, ownsHandle: true).Dispose();
        }
        return null;
    }
}
