using System.Net.Sockets;
using System.Runtime.InteropServices;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>Sends memory that is a file's through the file: the kernel hands its own pages to the socket, and the sender copies nothing.</summary>
/// <remarks>A file that was truncated under its mapping ends here as an error, not as SIGBUS. Source: sendfile(2).</remarks>
internal static unsafe class SendFile
{
    // One call may keep the loop's thread for as long as these bytes take; a wait for room ends it earlier.
    private const int MaxBytes = 4 << 20;

    /// <summary>Sends what the socket takes at once.</summary>
    /// <param name="socket">A socket that was used asynchronously, so that its descriptor does not block.</param>
    /// <param name="buffer">Memory with a file behind it.</param>
    /// <param name="address">Where in the buffer to start.</param>
    /// <param name="lengthBytes">Bytes that are to be sent.</param>
    /// <returns>Bytes sent; 0 when the socket is full.</returns>
    /// <exception cref="IOException">The file ends before those bytes.</exception>
    /// <exception cref="SocketException">The connection broke.</exception>
    internal static int Send(Socket socket, MemoryBuffer buffer, ulong address, ulong lengthBytes)
    {
        bool socketHeld = false;
        bool fileHeld = false;
        try
        {
            socket.SafeHandle.DangerousAddRef(ref socketHeld);          // a cut from another thread must not free the number under the call
            buffer.FileDescriptor!.DangerousAddRef(ref fileHeld);
            long offset = (long)(address - (ulong)buffer.Address);
            nint sent;
            int errno;
            do
            {
                sent = Libc.sendfile((int)socket.SafeHandle.DangerousGetHandle(), (int)buffer.FileDescriptor.DangerousGetHandle(), &offset, (nuint)Math.Min(MaxBytes, lengthBytes));
                errno = sent < 0 ? Marshal.GetLastPInvokeError() : 0;
            }
            while (errno == Libc.EINTR);
            return sent switch
            {
                > 0 => (int)sent,
                0 => throw new IOException("the file behind the memory was truncated"),
                _ => errno == Libc.EAGAIN ? 0 : throw new SocketException(errno),
            };
        }
        finally
        {
            if (fileHeld)
            {
                buffer.FileDescriptor!.DangerousRelease();
            }
            if (socketHeld)
            {
                socket.SafeHandle.DangerousRelease();
            }
        }
    }
}
