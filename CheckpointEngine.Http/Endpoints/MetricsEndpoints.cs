using CheckpointEngine.Http.Telemetry;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace CheckpointEngine.Http.Endpoints;

/// <summary><c>/metrics</c>: what Prometheus scrapes, in its text format or OpenMetrics'.</summary>
internal static class MetricsEndpoints
{
    private static readonly string[] s_get = [HttpMethods.Get, HttpMethods.Head];

    /// <param name="endpoints">Where it is mounted.</param>
    /// <param name="export">What is told.</param>
    /// <param name="guard">Who may ask; null: everybody.</param>
    internal static void Map(IEndpointRouteBuilder endpoints, TelemetryExport export, EndpointGuard? guard)
    {
        RequestDelegate scrape = endpoints.CreateApplicationBuilder().UseOpenTelemetryPrometheusScrapingEndpoint(export.Metrics, static _ => true, null, null, null).Build();
        endpoints.MapMethods("/metrics", s_get, guard is null ? scrape : guard.Protect(scrape));
    }
}
