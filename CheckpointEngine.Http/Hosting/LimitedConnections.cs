using CheckpointEngine.Access;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;

namespace CheckpointEngine.Http.Hosting;

/// <summary>The place that a connection took at the door (<see cref="DoorListener"/>), where requests find it.</summary>
internal static class LimitedConnections
{
    /// <summary>Gives a connection's place back at its end.</summary>
    internal static void Use(ListenOptions listen) => listen.Use(next => async connection =>
    {
        using ConnectionSlot? slot = connection.Features.Get<ConnectionSlot>();
        await next(connection).ConfigureAwait(false);
    });

    /// <summary>Lets a connection give way again once its first request has been answered.</summary>
    internal static void Use(IApplicationBuilder application) => application.Use(static async (context, next) =>
    {
        try
        {
            await next(context).ConfigureAwait(false);
        }
        finally
        {
            context.Features.Get<KeptPlace>()?.Release();
        }
    });

    /// <summary>The place of a request's connection; null in an application that gives it none.</summary>
    internal static ConnectionSlot? Find(HttpContext context) => context.Features.Get<ConnectionSlot>();
}

/// <summary>A place that was kept for a connection whose first request waits to be answered.</summary>
internal sealed class KeptPlace(ConnectionSlot slot)
{
    private int _isReleased;

    /// <summary>Keeps it no longer; the second time does nothing.</summary>
    internal void Release()
    {
        if (Interlocked.Exchange(ref _isReleased, 1) == 0)
        {
            slot.EndUse();
        }
    }
}
