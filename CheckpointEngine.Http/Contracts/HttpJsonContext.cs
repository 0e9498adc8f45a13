using System.Text.Json;
using System.Text.Json.Serialization;

namespace CheckpointEngine.Http.Contracts;

/// <summary>How the records of this room are read and written; metas have readers and writers of their own.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    RespectNullableAnnotations = true)]
[JsonSerializable(typeof(RegisterFilesRequest))]
[JsonSerializable(typeof(UpdateRequest))]
[JsonSerializable(typeof(ProblemReply))]
[JsonSerializable(typeof(ReadyReply))]
internal sealed partial class HttpJsonContext : JsonSerializerContext;
