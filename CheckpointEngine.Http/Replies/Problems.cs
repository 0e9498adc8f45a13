using System.Text.Json;
using CheckpointEngine.Http.Contracts;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.WebUtilities;

namespace CheckpointEngine.Http.Replies;

/// <summary>Writes errors.</summary>
internal static class Problems
{
    /// <summary>Answers with <paramref name="status"/>; the connection is cut instead where the answer has begun, so that half a body never looks whole.</summary>
    internal static async Task WriteAsync(HttpContext context, int status, string detail, IReadOnlyList<string>? checkpoints = null)
    {
        if (context.Response.HasStarted)
        {
            context.Abort();
            return;
        }
        byte[] body = JsonSerializer.SerializeToUtf8Bytes(
            new ProblemReply(ReasonPhrases.GetReasonPhrase(status), status, detail, checkpoints), HttpJsonContext.Default.ProblemReply);
        HttpResponse response = context.Response;
        response.Headers.ContentEncoding = default;
        response.Headers.ETag = default;
        response.Headers.CacheControl = "no-store";
        response.StatusCode = status;
        response.ContentType = "application/problem+json";
        response.ContentLength = body.Length;
        try
        {
            await response.Body.WriteAsync(body, context.RequestAborted).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (context.RequestAborted.IsCancellationRequested)
        {
            // Nobody listens any more.
        }
    }
}
