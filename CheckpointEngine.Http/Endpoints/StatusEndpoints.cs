using System.Text;
using CheckpointEngine.Http.Status;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace CheckpointEngine.Http.Endpoints;

/// <summary><c>/</c>: the state of the server as a page, for people.</summary>
internal sealed class StatusEndpoints(ICheckpointStore store, TimeProvider time)
{
    private static readonly string[] s_get = [HttpMethods.Get, HttpMethods.Head];
    private readonly TransferRates _rates = new(time);

    internal void Map(IEndpointRouteBuilder endpoints, EndpointGuard guard) => endpoints.MapMethods("/", s_get, guard.Protect(GetAsync, acceptPassword: true));

    private async Task GetAsync(HttpContext context)
    {
        IHeaderDictionary headers = context.Response.Headers;
        headers.ContentSecurityPolicy = StatusPage.ContentSecurityPolicy;
        headers.XContentTypeOptions = "nosniff";
        headers.XFrameOptions = "DENY";
        headers["Referrer-Policy"] = "no-referrer";
        headers["Cross-Origin-Resource-Policy"] = "same-origin";
        headers.CacheControl = "no-store";
        context.Response.ContentType = "text/html; charset=utf-8";
        byte[] page = Encoding.UTF8.GetBytes(StatusPage.Write(store.GetStatus(), _rates, time.GetUtcNow()));
        context.Response.ContentLength = page.Length;
        if (!HttpMethods.IsHead(context.Request.Method))
        {
            await context.Response.Body.WriteAsync(page, context.RequestAborted).ConfigureAwait(false);
        }
    }
}
