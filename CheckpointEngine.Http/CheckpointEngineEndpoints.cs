using CheckpointEngine.Http.Endpoints;
using CheckpointEngine.Http.Replies;
using CheckpointEngine.Http.Requests;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Http;

/// <summary>Mounts the engine's endpoints in any ASP.NET application.</summary>
public static class CheckpointEngineEndpoints
{
    /// <summary>Maps <c>/v1/…</c>: registration, metas, side files and updates of inference servers from the checkpoints of <paramref name="server"/>, and <c>/v1/healthz</c>.</summary>
    /// <param name="endpoints">Where they are mounted; a route group gives them a prefix.</param>
    /// <param name="server">The server, started.</param>
    /// <param name="options">Who may use them, and for what; read once, here. Default: everybody, without registration of files.</param>
    /// <returns>The group, for conventions that hold for all of them.</returns>
    public static RouteGroupBuilder MapCheckpointEngine(this IEndpointRouteBuilder endpoints, ParameterServer server, CheckpointEngineHttpOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(server);
        return endpoints.MapCheckpointEngine(new ParameterServerStore(server), new EncodedMetas(), options);
    }

    internal static RouteGroupBuilder MapCheckpointEngine(this IEndpointRouteBuilder endpoints, ICheckpointStore store, EncodedMetas encoded,
        CheckpointEngineHttpOptions? options)
    {
        ArgumentNullException.ThrowIfNull(endpoints);
        options ??= new CheckpointEngineHttpOptions();
        var guard = new EndpointGuard(options, endpoints.ServiceProvider.GetService<ILoggerFactory>());
        RouteGroupBuilder group = endpoints.MapGroup("");
        HealthEndpoints.Map(group);
        new CheckpointEndpoints(store, new AllowedPaths(options.AllowPaths)).Map(group, guard);
        new MetasEndpoints(store, encoded, options).Map(group, guard);
        new UpdateEndpoints(store).Map(group, guard);
        return group;
    }
}
