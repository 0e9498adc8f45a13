using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using CheckpointEngine.Access;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;

namespace CheckpointEngine.Http.Hosting;

/// <summary>Listening sockets of a server. Kestrel accepts one connection after the other of each; where it listens at one <see cref="EndPoint"/> several times, all take from one queue.</summary>
/// <remarks>
/// One loop accepts 25,000 connections a second: who comes behind a full queue of 4,096 would wait for a sixth of a second. Not SO_REUSEPORT, which lets other
/// processes of the user take connections, and a second server take the port unnoticed. One thread at a time. Source: accept(2), fcntl(2).
/// </remarks>
internal sealed partial class SharedListeners
{
    private const int DuplicateDescriptor = 1030;       // F_DUPFD_CLOEXEC

    private readonly Dictionary<EndPoint, Socket> _first = new(ReferenceEqualityComparer.Instance);

    /// <summary>How many loops are to accept connections of an address.</summary>
    internal static int Loops { get; } = OperatingSystem.IsLinux() ? Math.Clamp(Environment.ProcessorCount / 4, 1, 4) : 1;

    /// <summary>A bound socket, Kestrel's to dispose of; for an object that it was asked for before, another descriptor of the same.</summary>
    /// <exception cref="SocketException">It cannot be had.</exception>
    internal Socket Bind(EndPoint endPoint)
    {
        if (_first.TryGetValue(endPoint, out Socket? first))
        {
            int descriptor = fcntl(first.SafeHandle, DuplicateDescriptor, 0);
            return descriptor < 0 ? throw new SocketException(Marshal.GetLastPInvokeError()) : new Socket(new SafeSocketHandle(descriptor, ownsHandle: true));
        }
        Socket socket = endPoint is UnixDomainSocketEndPoint unix ? UnixSocketListener.Bind(unix) : SocketTransportOptions.CreateDefaultBoundListenSocket(endPoint);
        _first.Add(endPoint, socket);
        return socket;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fcntl(SafeHandle descriptor, int command, int argument);
}
