using System.Net;
using CheckpointEngine.Access;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;

namespace CheckpointEngine.Http.Hosting;

/// <summary>Gives each connection its place among those of the server, where requests find it.</summary>
internal static class LimitedConnections
{
    /// <summary>Lets in what the limiter has room for, and closes the rest.</summary>
    internal static void Use(ListenOptions listen, ConnectionLimiter limiter) => listen.Use(next => async connection =>
    {
        using ConnectionSlot? slot = limiter.TryEnter((connection.RemoteEndPoint as IPEndPoint)?.Address, connection.Abort);
        if (slot is null)
        {
            connection.Abort();
            return;
        }
        connection.Features.Set(slot);
        await next(connection).ConfigureAwait(false);
    });

    /// <summary>The place of a request's connection; null in an application that gives it none.</summary>
    internal static ConnectionSlot? Find(HttpContext context) => context.Features.Get<ConnectionSlot>();
}
