using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Peers;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Http.Hosting;

/// <summary>Gives Kestrel the listeners of one server (<see cref="DoorListener"/>), in the place of its own.</summary>
/// <param name="limiter">The places of the server's connections.</param>
/// <param name="isTls">Whether TLS is spoken at an address.</param>
/// <param name="headTimeout">How long a request's first line may take.</param>
/// <param name="loggers">For what Kestrel says of connections.</param>
internal sealed class DoorListenerFactory(ConnectionLimiter limiter, Predicate<EndPoint> isTls, TimeSpan headTimeout, ILoggerFactory loggers) : IConnectionListenerFactory
{
    // Longer than where connections are taken from the queue into the protocol itself: of who waits here longer than a moment the request is there when
    // it is accepted, and it gives way to nobody. At 25,000 connections a second 512 places were full after 20 ms without a core, and who finds them full
    // tries again a second later. The kernel takes no more than net.core.somaxconn.
    private const int LeastBacklog = 2048;

    /// <inheritdoc/>
    public ValueTask<IConnectionListener> BindAsync(EndPoint endpoint, CancellationToken cancellationToken = default)
    {
        bool isSecured = isTls(endpoint);
        Socket? listen = null;
        try
        {
            listen = endpoint is UnixDomainSocketEndPoint unix ? UnixSocketListener.Bind(unix) : SocketTransportOptions.CreateDefaultBoundListenSocket(endpoint);
            listen.Listen(Math.Max(LeastBacklog, limiter.Limits.Backlog));
        }
        catch (SocketException taken) when (taken.SocketErrorCode == SocketError.AddressAlreadyInUse)
        {
            listen?.Dispose();
            throw new AddressInUseException(taken.Message, taken);
        }
        catch
        {
            listen?.Dispose();
            throw;
        }
        // No handler of ours blocks: what a socket completes on a thread of the pool may go on there. Each queue between costs a wait for a core, where 64 joiners want two.
        var contexts = new SocketConnectionContextFactory(new SocketConnectionFactoryOptions { UnsafePreferInlineScheduling = true }, loggers.CreateLogger("Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets"));
        return ValueTask.FromResult<IConnectionListener>(new DoorListener(listen, limiter, isSecured, headTimeout, contexts));
    }
}
