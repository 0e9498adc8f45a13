using System.Net.Sockets;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Access;

/// <summary>Binds Unix sockets, and takes the place of a server that died.</summary>
public static class UnixSocketListener
{
    private const int NoSuchDeviceOrAddress = 6;    // ENXIO: what open(2) says of a socket

    /// <summary>A bound socket that does not listen yet; disposing of it removes its file.</summary>
    /// <param name="endPoint">Where: a path, or a name without a file (it begins with NUL).</param>
    /// <param name="mode">Who may connect, for a path: those who may write. Default: its owner.</param>
    /// <exception cref="CheckpointEngineException">
    /// <see cref="CheckpointError.AlreadyExists"/>: a server listens there, or something that is no socket has that name. <see cref="CheckpointError.Io"/>.
    /// </exception>
    public static Socket Bind(UnixDomainSocketEndPoint endPoint, UnixFileMode mode = UnixFileMode.UserRead | UnixFileMode.UserWrite)
    {
        ArgumentNullException.ThrowIfNull(endPoint);
        string path = endPoint.ToString();
        bool hasFile = path[0] is not ('@' or '\0');
        if (hasFile)
        {
            RemoveStale(endPoint, path);
        }
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            if (hasFile && OperatingSystem.IsLinux())
            {
                // Linux gives the file the mode of the socket, so that it is never there with another one (fchmod(2) before bind(2)).
                using var descriptor = new SafeFileHandle(socket.Handle, ownsHandle: false);
                File.SetUnixFileMode(descriptor, mode);
            }
            socket.Bind(endPoint);
            if (hasFile && !OperatingSystem.IsWindows())
            {
                File.SetUnixFileMode(path, mode);
            }
            return socket;
        }
        catch (Exception failure) when (failure is SocketException or IOException or UnauthorizedAccessException)
        {
            socket.Dispose();
            throw new CheckpointEngineException(CheckpointError.Io, $"listen at unix:{path}: {failure.Message}", (failure as SocketException)?.NativeErrorCode ?? 0, failure);
        }
    }

    private static void RemoveStale(UnixDomainSocketEndPoint endPoint, string path)
    {
        if (!Path.Exists(path))
        {
            return;
        }
        if (!IsSocket(path))
        {
            throw new CheckpointEngineException(CheckpointError.AlreadyExists, $"listen at unix:{path}: a file is there that is no socket");
        }
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { Blocking = false };
        try
        {
            probe.Connect(endPoint);
        }
        catch (SocketException refused) when (refused.SocketErrorCode == SocketError.ConnectionRefused)
        {
            File.Delete(path);      // its server is dead
            return;
        }
        catch (SocketException gone) when (gone.SocketErrorCode == SocketError.AddressNotAvailable)
        {
            return;                 // removed meanwhile
        }
        catch (SocketException busy) when (busy.SocketErrorCode == SocketError.WouldBlock)
        {
            // Somebody listens, with a full queue.
        }
        catch (SocketException failure)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"listen at unix:{path}: {failure.Message}", failure.NativeErrorCode, failure);
        }
        throw new CheckpointEngineException(CheckpointError.AlreadyExists, $"listen at unix:{path}: another server listens there");
    }

    // Connecting cannot tell: a plain file refuses connections as a dead server's socket does, and must not be removed for it.
    private static bool IsSocket(string path)
    {
        try
        {
            // For writing too: a FIFO would wait for its other end otherwise.
            using SafeFileHandle opened = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
            return false;
        }
        catch (IOException failure)
        {
            return failure.HResult == NoSuchDeviceOrAddress;
        }
        catch (UnauthorizedAccessException)
        {
            return false;
        }
    }
}
