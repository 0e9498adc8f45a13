using CheckpointEngine.Http.Endpoints;
using CheckpointEngine.Http.Replies;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Http.Requests;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Http;

/// <summary>Mounts the engine's endpoints in any ASP.NET application.</summary>
public static class CheckpointEngineEndpoints
{
    /// <summary>Maps <c>/v1/…</c>: registration, metas, side files and updates of inference servers from the checkpoints of <paramref name="server"/>, and <c>/v1/healthz</c> and <c>/v1/readyz</c>.</summary>
    /// <param name="endpoints">Where they are mounted; a route group gives them a prefix.</param>
    /// <param name="server">The server, started.</param>
    /// <param name="options">Who may use them, and for what; read once, here. Default: everybody, without registration of files.</param>
    /// <remarks>The page at <c>/</c> and <c>/metrics</c> are <see cref="CheckpointEngineHost"/>'s: an application has a root and metrics of its own, which take <see cref="CheckpointEngine.Telemetry.EngineTelemetry.MeterName"/>.</remarks>
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
        EndpointGuard guard = MakeGuard(endpoints, options);
        RouteGroupBuilder group = endpoints.MapGroup("");
        CancellationToken stopping = endpoints.ServiceProvider.GetService<IHostApplicationLifetime>()?.ApplicationStopping ?? CancellationToken.None;
        new HealthEndpoints(store, options.NotReady, stopping).Map(group);
        new CheckpointEndpoints(store, new AllowedPaths(options.AllowPaths)).Map(group, guard);
        new MetasEndpoints(store, encoded, options).Map(group, guard);
        new UpdateEndpoints(store).Map(group, guard);
        return group;
    }

    /// <summary>Mounts what a host of its own has beside: the page at <c>/</c>, and <c>/metrics</c>.</summary>
    internal static void MapStatus(this IEndpointRouteBuilder endpoints, ICheckpointStore store, TelemetryExport export, bool areMetricsOpen, CheckpointEngineHttpOptions options)
    {
        EndpointGuard guard = MakeGuard(endpoints, options);
        new StatusEndpoints(store, TimeProvider.System).Map(endpoints, guard);
        MetricsEndpoints.Map(endpoints, export, areMetricsOpen ? null : guard);
    }

    private static EndpointGuard MakeGuard(IEndpointRouteBuilder endpoints, CheckpointEngineHttpOptions options)
        => new(options, endpoints.ServiceProvider.GetService<ILoggerFactory>());
}
