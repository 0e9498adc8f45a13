using System.Net.Sockets;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>Sends memory over a socket from a thread that may wait.</summary>
/// <remarks>Memory that is gone (a file truncated under its mapping) ends here as an error, not as SIGBUS. Source: send(2), poll(2).</remarks>
internal static unsafe class BlockingSend
{
    /// <summary>Sends at least one byte; waits for room.</summary>
    /// <returns>Bytes sent.</returns>
    /// <exception cref="SocketException">The connection broke, or the memory is gone (EFAULT).</exception>
    internal static int Send(Socket socket, ulong address, int lengthBytes)
    {
        bool held = false;
        SafeSocketHandle handle = socket.SafeHandle;
        try
        {
            handle.DangerousAddRef(ref held);       // a cut from another thread must not free the number under the call
            int fd = (int)handle.DangerousGetHandle();
            while (true)
            {
                nint sent = Libc.send(fd, (void*)address, (nuint)lengthBytes, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
                if (sent > 0)
                {
                    return (int)sent;
                }
                int errno = Marshal.GetLastPInvokeError();
                if (errno == Libc.EAGAIN)
                {
                    var descriptor = new Libc.PollFd { fd = fd, events = Libc.POLLOUT };
                    _ = Libc.poll(&descriptor, 1, -1);      // a cut shuts the socket down, which ends the wait
                }
                else if (errno != Libc.EINTR)
                {
                    throw new SocketException(errno);
                }
            }
        }
        finally
        {
            if (held)
            {
                handle.DangerousRelease();
            }
        }
    }
}
