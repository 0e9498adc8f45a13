using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace CheckpointEngine.Http.Endpoints;

/// <summary><c>/v1/healthz</c>: answers always and at once, without a token, whatever else goes on.</summary>
internal static class HealthEndpoints
{
    private static readonly string[] s_get = [HttpMethods.Get, HttpMethods.Head];

    internal static void Map(IEndpointRouteBuilder endpoints)
        => endpoints.MapMethods("/v1/healthz", s_get, (RequestDelegate)(static context =>
        {
            context.Response.ContentLength = 0;
            return Task.CompletedTask;
        }));
}
