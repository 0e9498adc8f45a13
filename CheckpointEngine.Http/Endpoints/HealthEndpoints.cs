using System.Text.Json;
using CheckpointEngine.Http.Contracts;
using CheckpointEngine.Http.Replies;
using CheckpointEngine.Http.Requests;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace CheckpointEngine.Http.Endpoints;

/// <summary>What a supervisor asks, without a token: <c>/v1/healthz</c>, is it alive; <c>/v1/readyz</c>, can a checkpoint be read here.</summary>
/// <param name="store">What is held.</param>
/// <param name="notReady">Why others should not be sent here, though something is held; null when nothing ever stands in the way.</param>
/// <param name="stopping">Cancelled when the application stops.</param>
internal sealed class HealthEndpoints(ICheckpointStore store, Func<string?>? notReady, CancellationToken stopping)
{
    private static readonly string[] s_get = [HttpMethods.Get, HttpMethods.Head];

    internal void Map(IEndpointRouteBuilder endpoints)
    {
        endpoints.MapMethods("/v1/healthz", s_get, (RequestDelegate)(static context =>
        {
            context.Response.ContentLength = 0;
            return Task.CompletedTask;
        }));
        endpoints.MapMethods("/v1/readyz", s_get, (RequestDelegate)AnswerReadyAsync);
    }

    // A stranger may ask: a number and a fixed sentence, no names.
    private Task AnswerReadyAsync(HttpContext context)
    {
        int held = store.CountHeld();
        string? reason = stopping.IsCancellationRequested ? "it is stopping: joins under way go on, new ones go elsewhere"
            : held == 0 ? "no checkpoint is held here yet"
            : notReady?.Invoke();
        if (reason is not null)
        {
            return Problems.WriteAsync(context, StatusCodes.Status503ServiceUnavailable, reason);
        }
        byte[] body = JsonSerializer.SerializeToUtf8Bytes(new ReadyReply(held), HttpJsonContext.Default.ReadyReply);
        context.Response.ContentType = "application/json";
        context.Response.Headers.CacheControl = "no-store";
        context.Response.ContentLength = body.Length;
        return RequestMethods.IsHead(context) ? Task.CompletedTask : context.Response.Body.WriteAsync(body, context.RequestAborted).AsTask();
    }
}
