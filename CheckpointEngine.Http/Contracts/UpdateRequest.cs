using System.Text.Json.Serialization;

namespace CheckpointEngine.Http.Contracts;

/// <summary>Body of <c>POST /v1/checkpoints/{name}/update</c>: upstream's, and behind it what is ours; members beyond these are skipped.</summary>
/// <param name="Ranks">Whom upstream updates; here only how many workers there are, when nothing says it better.</param>
/// <param name="UpdateUrl">The inference server's endpoint, which also says what it is: <c>/collective_rpc</c>, <c>/update_weights_from_ipc</c>, <c>/update_weights_from_disk</c>.</param>
/// <param name="InferenceGroupRanks">The server's workers: their number counts.</param>
/// <param name="Timeout">Seconds of the whole update.</param>
/// <param name="Uds">A Unix socket to reach the server through.</param>
/// <param name="Engine">As <c>--engine</c> has it, where the endpoint does not tell: <c>lmdeploy</c>, <c>vllm-files</c>.</param>
/// <param name="InferenceParallelSize">Number of the server's workers.</param>
/// <param name="WorkerProtocol">As <c>--worker-protocol</c> has it.</param>
/// <param name="WeightVersion">What SGLang calls the weights.</param>
/// <param name="FlushCache">Whether SGLang drops its cache of prefixes.</param>
internal sealed record UpdateRequest(
    [property: JsonPropertyName("ranks")] IReadOnlyList<int>? Ranks = null,
    [property: JsonPropertyName("update_url")] string? UpdateUrl = null,
    [property: JsonPropertyName("inference_group_ranks")] IReadOnlyList<int>? InferenceGroupRanks = null,
    [property: JsonPropertyName("timeout")] double Timeout = 300,
    [property: JsonPropertyName("uds")] string? Uds = null,
    [property: JsonPropertyName("engine")] string? Engine = null,
    [property: JsonPropertyName("inference_parallel_size")] int? InferenceParallelSize = null,
    [property: JsonPropertyName("worker_protocol")] string? WorkerProtocol = null,
    [property: JsonPropertyName("weight_version")] string? WeightVersion = null,
    [property: JsonPropertyName("flush_cache")] bool FlushCache = true);
