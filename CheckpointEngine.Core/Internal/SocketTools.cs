using System.Net;
using System.Net.Sockets;

namespace CheckpointEngine.Internal;

/// <summary>What all sockets of the engine have in common.</summary>
internal static class SocketTools
{
    // linux/tcp.h: the option, and the state of a connection whose peer has ended its side.
    private const int TcpInfo = 11;
    private const byte CloseWait = 8;

    private const int TcpCongestion = 13;     // TCP_CONGESTION of <netinet/tcp.h>
    private static readonly byte[] s_plain = "reno"u8.ToArray();      // always built in and always allowed

    /// <summary>Makes a listening socket at <paramref name="bind"/>; an IPv6 wildcard takes IPv4 too.</summary>
    /// <exception cref="CheckpointEngineException">The address or port cannot be had.</exception>
    internal static Socket Listen(IPEndPoint bind, int backlog)
    {
        var socket = new Socket(bind.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            if (bind.AddressFamily == AddressFamily.InterNetworkV6 && bind.Address.Equals(IPAddress.IPv6Any))
            {
                socket.DualMode = true;
            }
            socket.Bind(bind);
            socket.Listen(backlog);
            return socket;
        }
        catch (SocketException failure)
        {
            socket.Dispose();
            throw new CheckpointEngineException(CheckpointError.Unreachable,
                $"listen on {bind}: {failure.Message}; the address must be one of this host's and the port free (port 0 takes any)", failure.NativeErrorCode, failure);
        }
    }

    /// <summary>Whether a connection stays on this host: over the loopback, or from one of its addresses to the same one.</summary>
    internal static bool IsOwnHost(IPAddress remote, IPAddress local) => IsLoopback(remote) || remote.Equals(local);

    /// <summary>
    /// Gives a listener's connections a congestion control that does not pace, where the system's default does (BBR): pacing a connection that stays on
    /// this host costs a third of the rate with send(2) and half with sendfile(2), and with many of them twice the processor time.
    /// </summary>
    /// <remarks>
    /// On the listener, since a socket that has begun with BBR goes on being paced when it is given another (<c>sk_pacing_status</c> is never taken back).
    /// </remarks>
    /// <returns>What connections that come from elsewhere are to be given back, by <see cref="SetCongestionControl"/>; empty when there is nothing to do.</returns>
    internal static byte[] PreferPlainCongestionControl(Socket listener)
    {
        if (!OperatingSystem.IsLinux())
        {
            return [];
        }
        try
        {
            byte[] usual = new byte[16];        // TCP_CA_NAME_MAX
            int length = listener.GetRawSocketOption((int)ProtocolType.Tcp, TcpCongestion, usual);
            usual = usual[..length].AsSpan().TrimEnd((byte)0).ToArray();
            using var probe = new Socket(listener.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            if (usual.AsSpan().SequenceEqual(s_plain) || !SetCongestionControl(probe, s_plain) || !SetCongestionControl(probe, usual))
            {
                return [];
            }
            return SetCongestionControl(listener, s_plain) ? usual : [];
        }
        catch (SocketException)
        {
            return [];      // a system without them keeps its default: slower, not wrong
        }
    }

    /// <summary>Gives a socket a congestion control by name; false when the system does not let it.</summary>
    internal static bool SetCongestionControl(Socket socket, ReadOnlySpan<byte> name)
    {
        try
        {
            socket.SetRawSocketOption((int)ProtocolType.Tcp, TcpCongestion, name);
            return true;
        }
        catch (SocketException)
        {
            return false;
        }
    }

    /// <summary>
    /// Bounds what waits in the kernel for a reader on this host. Left alone the buffer grows to 20 MB, and what is read is long out of the cache:
    /// with 4 MiB a tenth more arrives. Over a network the system's own measure stays, which knows the distance.
    /// </summary>
    internal static void BoundReceiveBufferOnLoopback(Socket socket, IPAddress peer)
    {
        if (IsLoopback(peer))
        {
            socket.ReceiveBufferSize = 4 << 20;
        }
    }

    private static bool IsLoopback(IPAddress address) => IPAddress.IsLoopback(address.IsIPv4MappedToIPv6 ? address.MapToIPv4() : address);

    /// <summary>Whether the peer of a TCP connection has ended its side: behind bytes that are not read yet that cannot be seen by reading.</summary>
    internal static bool HasPeerEnded(Socket socket)
    {
        byte state = 0;     // tcp_info begins with it
        return socket.GetRawSocketOption((int)SocketOptionLevel.Tcp, TcpInfo, new Span<byte>(ref state)) == 1 && state == CloseWait;
    }
}
