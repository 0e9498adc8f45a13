using System.Text.Json.Serialization;
using CheckpointEngine.Cli.Doctor;

namespace CheckpointEngine.Cli.Output;

/// <summary>The line of <c>serve --json</c>.</summary>
internal sealed record ServeReadyJson(
    bool Ready, string Http, [property: JsonPropertyName("p2p_store_addr")] string P2pStoreAddress, IReadOnlyList<string> Checkpoints);

/// <summary>The phases of a join, in seconds.</summary>
internal sealed record PhasesJson(double Metas, double Plan, double Allocate, double Transfer, double Verify, double Write);

/// <summary>One round of <c>join --repeat N</c>.</summary>
internal sealed record RoundJson(double Seconds, PhasesJson Phases);

/// <summary>Which way an owner's bytes come.</summary>
internal sealed record PlaneJson(int Rank, string Address, string Transport, bool Attached, bool? Encrypted, string? Reason)
{
    public static PlaneJson Of(OwnerPlane plane) => new(plane.Rank, plane.Address, plane.Transport, plane.Attached, plane.Encrypted ? true : null, plane.Reason);
}

/// <summary>The document of <c>join --json</c>.</summary>
/// <param name="TotalSeconds">With an update: from the asking for the metas to the server's answer, for the two go on beside each other.</param>
internal sealed record JoinJson(
    string Checkpoint,
    long Bytes,
    int Tensors,
    double Seconds,
    [property: JsonPropertyName("gib_per_s")] double GibPerSecond,
    bool Verified,
    string? UnverifiedReason,
    IReadOnlyDictionary<string, long> Transports,
    IReadOnlyDictionary<string, long>? Pairs,
    long? AttachedBytes,
    long? ReusedBytes,
    long? RetriedBytes,
    long? RelayedBytes,
    IReadOnlyList<PlaneJson> Owners,
    PhasesJson Phases,
    IReadOnlyList<RoundJson>? Rounds,
    UpdateJson? Update = null,
    double? TotalSeconds = null);

/// <summary>One bucket in <see cref="UpdateJson"/>.</summary>
internal sealed record UpdateBucketJson(long Bytes, int Tensors, double Copy, double Load);

/// <summary>One worker in <see cref="UpdateJson"/>.</summary>
internal sealed record UpdateDeviceJson(string Uuid, double Connect, double Load, double Finish);

/// <summary>The document of <c>update --json</c>; times in seconds.</summary>
internal sealed record UpdateJson(
    string Checkpoint,
    long Bytes,
    int Tensors,
    double Seconds,
    [property: JsonPropertyName("gib_per_s")] double GibPerSecond,
    long BucketBytes,
    double Health,
    double Open,
    double Write,
    double Finish,
    IReadOnlyList<UpdateBucketJson> Buckets,
    IReadOnlyList<UpdateDeviceJson> Devices,
    IReadOnlyList<string> Notes);

/// <summary>One owner in <c>plan --json</c>.</summary>
internal sealed record PlanOwnerJson(int Rank, string? Address, long Bytes, int Tensors, int Ranges, string? Transport = null, bool? Attached = null, bool? Encrypted = null, string? Reason = null);

/// <summary>The document of <c>plan --json</c>.</summary>
/// <param name="MemoryBytes">Of a join into memory: the buffers that it allocates, where nothing is attached to.</param>
/// <param name="UpdateBytes">What an update of an inference server takes beside that: two buckets, on each GPU or once on the host, and staging.</param>
internal sealed record PlanJson(long Bytes, int Tensors, int Ranges, IReadOnlyList<PlanOwnerJson> Owners, long MemoryBytes, PlanUpdateJson UpdateBytes);

/// <summary>The memory of an update in <c>plan --json</c>.</summary>
/// <param name="Buckets">Two buckets of 256 MiB, or of the largest tensor.</param>
/// <param name="Staging">Pinned memory of the host, where GPUs take weights out of mapped files.</param>
internal sealed record PlanUpdateJson(long Buckets, long Staging);

/// <summary>Everything the command prints as JSON; generated at build time, so that it works compiled ahead of time.</summary>
[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(ServeReadyJson))]
[JsonSerializable(typeof(JoinJson))]
[JsonSerializable(typeof(PlanJson))]
[JsonSerializable(typeof(UpdateJson))]
[JsonSerializable(typeof(HostReport))]
internal sealed partial class OutputJson : JsonSerializerContext;
