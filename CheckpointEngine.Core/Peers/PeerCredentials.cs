using System.Net.Sockets;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Peers;

/// <summary>Who is at the other end of a Unix socket, by the kernel's word.</summary>
/// <param name="ProcessId">Its process as this one sees it; 0 when it is in a process namespace that this one cannot see.</param>
/// <param name="UserId">The user it acted as when it connected or listened.</param>
internal readonly record struct PeerCredentials(int ProcessId, uint UserId)
{
    /// <summary>Asks about a connected Unix socket. Source: SO_PEERCRED, unix(7).</summary>
    /// <exception cref="SocketException">It is no connected Unix socket.</exception>
    internal static unsafe PeerCredentials Of(Socket socket)
    {
        Span<byte> bytes = stackalloc byte[sizeof(Libc.UCred)];
        socket.GetRawSocketOption(Libc.SOL_SOCKET, Libc.SO_PEERCRED, bytes);
        Libc.UCred credentials = MemoryMarshal.Read<Libc.UCred>(bytes);
        return new PeerCredentials(credentials.pid, credentials.uid);
    }
}
