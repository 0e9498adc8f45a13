using System.Globalization;
using CheckpointEngine.Http.Replies;
using CheckpointEngine.Http.Requests;
using CheckpointEngine.Metas;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

namespace CheckpointEngine.Http.Endpoints;

/// <summary>Telling, loading and gathering metas: by checkpoint, as pickle or JSON, and as merged upstream, in JSON alone.</summary>
internal sealed class MetasEndpoints(ICheckpointStore store, EncodedMetas encoded, CheckpointEngineHttpOptions options)
{
    private const string DefaultName = "default";
    private const int MaxWaitSeconds = 300;

    private static readonly string[] s_get = [HttpMethods.Get, HttpMethods.Head];
    private static readonly string[] s_post = [HttpMethods.Post];

    private readonly MetasClientOptions _gatherClient = options.GatherClient ?? new MetasClientOptions { Token = options.Token };

    internal void Map(IEndpointRouteBuilder endpoints, EndpointGuard guard)
    {
        endpoints.MapMethods("/v1/checkpoints/{name}/metas", s_get, guard.Protect(GetByNameAsync));
        endpoints.MapMethods("/v1/checkpoints/{name}/load-metas", s_post, guard.Protect(LoadByNameAsync));
        endpoints.MapMethods("/v1/checkpoints/{name}/gather-metas", s_post, guard.Protect(GatherAsync));
        endpoints.MapMethods("/v1/metas", s_get, guard.Protect(GetAsync));
        endpoints.MapMethods("/v1/metas", s_post, guard.Protect(LoadAsync));
    }

    private Task GetByNameAsync(HttpContext context)
    {
        context.Response.Headers.Vary = "Accept, Accept-Encoding";
        return SendAsync(context, CheckpointNames.FromPath(context, segmentsBehind: 1), Negotiation.ChooseFormat(context.Request.Headers.Accept));
    }

    private Task GetAsync(HttpContext context)
    {
        context.Response.Headers.Vary = "Accept-Encoding";
        return SendAsync(context, CheckpointNames.FromQuery(context) ?? GetOnlyName(), MetasFormat.Json);
    }

    private Task LoadByNameAsync(HttpContext context)
        => LoadAsync(context, CheckpointNames.FromPath(context, segmentsBehind: 1), RequestBody.GetMetasFormat(context));

    private Task LoadAsync(HttpContext context) => LoadAsync(context, CheckpointNames.FromQuery(context) ?? DefaultName, MetasFormat.Json);

    private async Task GatherAsync(HttpContext context)
    {
        string name = CheckpointNames.FromPath(context, segmentsBehind: 1);
        try
        {
            await store.GatherMetasAsync(name, options.GatherPeers, _gatherClient, context.RequestAborted).ConfigureAwait(false);
        }
        catch (CheckpointEngineException missing) when (missing.Error == CheckpointError.NotFound)
        {
            // A peer lacks it. That is no 404: what this request named is there.
            throw new HttpProblemException(StatusCodes.Status500InternalServerError, missing.Message, missing);
        }
        context.Response.ContentLength = 0;
    }

    private async Task LoadAsync(HttpContext context, string name, MetasFormat format)
    {
        CheckpointMetas metas = await RequestBody.ReadMetasAsync(context, format).ConfigureAwait(false);
        try
        {
            store.LoadMetas(name, metas);
        }
        catch (CheckpointEngineException bad) when (bad.Error is CheckpointError.InvalidData or CheckpointError.WrongShape)
        {
            // Well-formed metas of which an owner cannot be read from: that is a rule broken, not a syntax.
            throw new HttpProblemException(
                format == MetasFormat.Json ? StatusCodes.Status422UnprocessableEntity : StatusCodes.Status400BadRequest, bad.Message, bad);
        }
        context.Response.ContentLength = 0;
    }

    private async Task SendAsync(HttpContext context, string name, MetasFormat format)
    {
        HttpResponse response = context.Response;
        PublishedMetas published = store.GetMetas(name, GetScope(context));
        ContentCoding coding = Negotiation.ChooseCoding(context.Request.Headers.AcceptEncoding);
        string entityTag = EncodedMetas.GetEntityTag(published, format, coding);
        if (GetWait(context) is TimeSpan wait && Negotiation.HasAlready(context.Request.Headers.IfNoneMatch, entityTag))
        {
            published = await WaitAsync(context, name, published, wait).ConfigureAwait(false);
            entityTag = EncodedMetas.GetEntityTag(published, format, coding);
        }
        if (Negotiation.HasAlready(context.Request.Headers.IfNoneMatch, entityTag))
        {
            response.Headers.ETag = entityTag;
            response.Headers.CacheControl = "no-cache";
            response.StatusCode = StatusCodes.Status304NotModified;
            return;
        }
        ChunkedBuffer body = await encoded.GetAsync(published, format, coding).WaitAsync(context.RequestAborted).ConfigureAwait(false);
        response.Headers.ETag = entityTag;
        response.Headers.CacheControl = "no-cache";      // may be kept, but is asked for anew each time
        if (coding != ContentCoding.Identity)
        {
            response.Headers.ContentEncoding = coding == ContentCoding.Brotli ? "br" : "gzip";
        }
        response.ContentType = format == MetasFormat.Json ? "application/json" : "application/octet-stream";
        response.ContentLength = body.Length;
        if (!RequestMethods.IsHead(context))
        {
            await body.CopyToAsync(response.Body, context.RequestAborted).ConfigureAwait(false);
        }
    }

    // What there is then; what there was, when nothing has changed or the server is about to stop.
    private async Task<PublishedMetas> WaitAsync(HttpContext context, string name, PublishedMetas known, TimeSpan patience)
    {
        CancellationToken stopping = context.RequestServices.GetService<IHostApplicationLifetime>()?.ApplicationStopping ?? CancellationToken.None;
        using var wait = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, stopping);
        wait.CancelAfter(patience);
        try
        {
            return await store.WaitForMetasAsync(name, known.EntityTag, GetScope(context), wait.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!context.RequestAborted.IsCancellationRequested)
        {
            return known;
        }
    }

    private static TimeSpan? GetWait(HttpContext context)
    {
        string text = context.Request.Query["wait"].ToString();
        return text.Length == 0 ? null
            : int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int seconds) && seconds <= MaxWaitSeconds ? TimeSpan.FromSeconds(seconds)
            : throw new HttpProblemException(StatusCodes.Status400BadRequest, $"wait '{text}' is no whole number of seconds from 0 to {MaxWaitSeconds}");
    }

    private string GetOnlyName()
    {
        IReadOnlyList<string> names = store.CheckpointNames;
        return names.Count switch
        {
            1 => names[0],
            0 => throw new HttpProblemException(StatusCodes.Status404NotFound, "no checkpoint is known here"),
            _ => throw new HttpProblemException(StatusCodes.Status409Conflict,
                $"{names.Count} checkpoints are known here, say which: ?checkpoint=NAME with one of {string.Join(", ", names)}")
            { Checkpoints = names },
        };
    }

    private static MetasScope GetScope(HttpContext context) => context.Request.Query["scope"].ToString() switch
    {
        "" or "world" => MetasScope.World,
        "local" => MetasScope.Local,
        string other => throw new HttpProblemException(StatusCodes.Status400BadRequest, $"scope '{other}' is neither local nor world"),
    };
}
