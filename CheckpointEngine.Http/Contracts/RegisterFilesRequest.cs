using System.Text.Json.Serialization;

namespace CheckpointEngine.Http.Contracts;

/// <summary>Body of <c>POST /v1/checkpoints/{name}/files</c>; members beyond these are skipped.</summary>
/// <param name="Files">Absolute paths on the server's host: safetensors files, an index, or a directory.</param>
/// <param name="UseSharedMemoryPool">Upstream's name for <see cref="RegistrationOptions.SharedPool"/>; without it the server's own setting.</param>
/// <param name="Replace">Whether what is held under the name is replaced by them, as its next generation; else the name must be free.</param>
internal sealed record RegisterFilesRequest(
    [property: JsonRequired] IReadOnlyList<string?> Files,
    [property: JsonPropertyName("use_shared_memory_pool")] bool? UseSharedMemoryPool = null,
    bool Replace = false);
