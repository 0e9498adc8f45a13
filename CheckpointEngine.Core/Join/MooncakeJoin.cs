using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Mooncake;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Join;

/// <summary>What a join needs to read through Mooncake's library: an engine of its own, which knows nothing of what earlier joins saw.</summary>
/// <remarks>The engine starts when the first owner is opened. Disposed when no lane is left; that takes up to a second.</remarks>
internal sealed class MooncakeJoin(ParameterServerOptions server) : IDisposable
{
    private readonly Lock _lock = new();
    private Task<MooncakeEngine>? _engine;

    /// <summary>The engine; the first call decides which owner its address is towards.</summary>
    /// <exception cref="CheckpointEngineException">There is no library, or it does not start.</exception>
    internal Task<MooncakeEngine> OpenAsync(EndpointName owner, CancellationToken cancellationToken)
    {
        lock (_lock)
        {
            return _engine ??= MooncakeEngine.StartAsync(server.MooncakeLibrary, Host(owner), server.LoggerFactory.CreateLogger("CheckpointEngine.Transfer.Mooncake"), cancellationToken);
        }
    }

    /// <summary>Registers where the bytes are to go, where the library's transport wants that.</summary>
    /// <exception cref="CheckpointEngineException">The memory cannot be locked or registered.</exception>
    internal void Register(IJoinDestination destination)
    {
        if (_engine is { IsCompletedSuccessfully: true, Result: { ReadsIntoRegistered: true } engine })
        {
            engine.Register([.. destination.Regions]);
        }
    }

    /// <summary>Takes the memory out again, which may then be sealed or freed.</summary>
    internal void Unregister()
    {
        if (_engine is { IsCompletedSuccessfully: true })
        {
            _engine.Result.UnregisterAll();
        }
    }

    public void Dispose()
    {
        if (_engine is { IsCompletedSuccessfully: true })
        {
            _engine.Result.Dispose();
        }
    }

    // An RDMA peer before v0.3.11 connects back to it.
    private IPAddress Host(EndpointName owner)
    {
        try
        {
            return IPAddress.IsLoopback(server.Address) ? RdmaPlane.OwnAddressTowards(owner) : server.Address;
        }
        catch (SocketException)
        {
            return server.Address;
        }
    }
}
