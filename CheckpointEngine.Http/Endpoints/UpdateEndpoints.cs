using CheckpointEngine.Http.Contracts;
using CheckpointEngine.Http.Replies;
using CheckpointEngine.Http.Requests;
using CheckpointEngine.Inference;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace CheckpointEngine.Http.Endpoints;

/// <summary>Bringing a checkpoint into an inference server of this host.</summary>
internal sealed class UpdateEndpoints(ICheckpointStore store)
{
    private const double MostSeconds = 31 * 24 * 3600;

    private static readonly string[] s_post = [HttpMethods.Post];

    internal void Map(IEndpointRouteBuilder endpoints, EndpointGuard guard)
        => endpoints.MapMethods("/v1/checkpoints/{name}/update", s_post, guard.Protect(UpdateAsync));

    private async Task UpdateAsync(HttpContext context)
    {
        string name = CheckpointNames.FromPath(context, segmentsBehind: 1);
        InferenceUpdateOptions options = ToOptions(await ReadAsync(context).ConfigureAwait(false));
        // Not cancelled with its request: half an update is no state for a server.
        await store.UpdateAsync(name, options, CancellationToken.None).ConfigureAwait(false);
        context.Response.ContentLength = 0;
    }

    private static InferenceUpdateOptions ToOptions(UpdateRequest request)
    {
        if (request.UpdateUrl is null)
        {
            throw Bad("\"update_url\" is missing; name the inference server's endpoint, as in http://127.0.0.1:8000/collective_rpc");
        }
        if (!Uri.TryCreate(request.UpdateUrl, UriKind.Absolute, out Uri? url) || url.Scheme is not ("http" or "https"))
        {
            throw Bad($"\"update_url\": '{request.UpdateUrl}' is no http(s) URL");
        }
        if (request.Uds is null && !url.IsLoopback)
        {
            throw Bad($"\"update_url\": {url.Host} is not of this host; control endpoints of inference servers are reached over loopback or a Unix socket (\"uds\")");
        }
        if (request.Uds is not null && !Path.IsPathFullyQualified(request.Uds))
        {
            throw Bad($"\"uds\": '{request.Uds}' is no absolute path");
        }
        if (!(request.Timeout is > 0 and <= MostSeconds))
        {
            throw Bad($"\"timeout\": {request.Timeout} is not a number of seconds above 0");
        }
        int workers = request.InferenceParallelSize ?? (request.InferenceGroupRanks is { Count: > 0 } group ? group.Count : request.Ranks is { Count: > 0 } ranks ? ranks.Count : 1);
        if (workers is < 1 or > 1024)
        {
            throw Bad($"{workers} workers are not 1 to 1024");
        }
        return new InferenceUpdateOptions
        {
            Endpoint = new Uri(url.GetLeftPart(UriPartial.Authority) + url.AbsolutePath[..^LastSegment(url).Length]),
            UnixSocket = request.Uds,
            Engine = EngineOf(request.Engine, LastSegment(url)),
            InferenceParallelSize = workers,
            UpdateTimeout = TimeSpan.FromSeconds(request.Timeout),
            HealthTimeout = TimeSpan.FromSeconds(request.Timeout),
            WorkerProtocol = request.WorkerProtocol switch
            {
                null or "0.4" => WorkerProtocol.V04,
                "0.2" => WorkerProtocol.V02,
                "0.1" => WorkerProtocol.V01,
                _ => throw Bad($"\"worker_protocol\": '{request.WorkerProtocol}' is not 0.4, 0.2 or 0.1"),
            },
            WeightVersion = request.WeightVersion,
            FlushCache = request.FlushCache,
        };
    }

    private static InferenceEngine EngineOf(string? engine, string segment) => (engine, segment) switch
    {
        ("vllm", _) or (null, "collective_rpc") => InferenceEngine.Vllm,
        ("sglang", _) or (null, "update_weights_from_ipc") => InferenceEngine.Sglang,
        ("lmdeploy", _) => InferenceEngine.Lmdeploy,
        ("vllm-files", _) => InferenceEngine.VllmFiles,
        ("sglang-files", _) or (null, "update_weights_from_disk") => InferenceEngine.SglangFiles,
        (null, _) => throw Bad("\"update_url\" does not tell which server it is: it ends in none of /collective_rpc, /update_weights_from_ipc, /update_weights_from_disk; say it with \"engine\""),
        _ => throw Bad($"\"engine\": '{engine}' is not vllm, sglang, lmdeploy, vllm-files or sglang-files"),
    };

    // Of one of the endpoints; else "": the URL is the server's own.
    private static string LastSegment(Uri url)
    {
        string segment = url.Segments[^1];
        return segment is "collective_rpc" or "update_weights_from_ipc" or "update_weights_from_disk" ? segment : "";
    }

    private static HttpProblemException Bad(string message) => new(StatusCodes.Status400BadRequest, message);

    private static Task<UpdateRequest> ReadAsync(HttpContext context)
        => RequestBody.ReadJsonAsync(context, HttpJsonContext.Default.UpdateRequest, static _ => true,
            "{\"update_url\":\"http://…\",\"inference_group_ranks\":[0, …],\"timeout\":300.0,\"uds\":null}");
}
