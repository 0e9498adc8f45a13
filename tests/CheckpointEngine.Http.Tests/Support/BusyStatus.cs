namespace CheckpointEngine.Http.Tests.Support;

/// <summary>A holder that is doing everything at once, as the status page shows it.</summary>
internal static class BusyStatus
{
    private static readonly DateTimeOffset s_began = DateTimeOffset.UtcNow;

    /// <summary>Its state now: its counters go on.</summary>
    internal static ServerStatus Make(params ReadOnlySpan<CheckpointStatus> more) => new()
    {
        Version = EngineVersion.Text,
        Started = DateTimeOffset.UtcNow - new TimeSpan(3, 4, 5, 6),
        Rank = 0,
        P2pStoreAddress = "10.0.0.5:12001",
        PeerUrl = "ce://10.0.0.5:40123",
        Planes = ["local", "rdma", "tcp"],
        Checkpoints =
        [
            new CheckpointStatus
            {
                Name = "actor", State = "held", Kind = "caller", Tensors = 339, Bytes = 15_231_233_024, Generation = 1207, DigestsDone = 1413, DigestsTotal = 3632, Leases = 3,
                Owners = [new OwnerStatus(0, "10.0.0.5:12001", 339)],
            },
            new CheckpointStatus
            {
                Name = "qwen2.5-72b", State = "held", Kind = "memfd", Tensors = 963, Bytes = 145_412_407_296, Generation = 2, DigestsDone = 34_669, DigestsTotal = 34_669, Leases = 1,
                Owners = [.. Enumerable.Range(0, 4).Select(rank => new OwnerStatus(rank, $"10.0.0.{5 + rank}:12001", 963))],
            },
            new CheckpointStatus { Name = "join-checkpoint", State = "arriving" },
            new CheckpointStatus { Name = "reference", State = "elsewhere", Owners = [new OwnerStatus(0, "10.0.0.9:12001", 291)] },
            .. more,
        ],
        Joins = [new JoinStatus("join-checkpoint", DateTimeOffset.UtcNow - TimeSpan.FromSeconds(7), new JoinProgress(61_203_283_968 + Since(790_000_000), 145_412_407_296, 8, "transfer"))],
        Readers = [new ReaderStatus("10.0.0.21", 8, 98_213_888_000 + Since(510_000_000)), new ReaderStatus("10.0.0.22", 4, 40_113_888_256 + Since(240_000_000)), new ReaderStatus("fd00::17", 2, 12_288)],
        Conversations = 5,
        SentBytes = 1_812_113_888_000 + Since(750_000_000),
    };

    private static long Since(long bytesPerSecond) => (long)((DateTimeOffset.UtcNow - s_began).TotalSeconds * bytesPerSecond);
}
