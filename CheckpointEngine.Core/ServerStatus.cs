namespace CheckpointEngine;

/// <summary>What a <see cref="ParameterServer"/> is doing at a moment; for people, and consistent enough for them.</summary>
public sealed class ServerStatus
{
    /// <summary>The engine's version.</summary>
    public required string Version { get; init; }

    /// <summary>When the server was made.</summary>
    public required DateTimeOffset Started { get; init; }

    /// <summary>This owner's rank.</summary>
    public required int Rank { get; init; }

    /// <summary><c>host:port</c> of the handshake listener; empty when it was not started.</summary>
    public required string P2pStoreAddress { get; init; }

    /// <summary><c>ce://host:port</c> of the peer service; empty when it was not started.</summary>
    public required string PeerUrl { get; init; }

    /// <summary>The planes that it offers now, the best first; none when it was not started.</summary>
    public required IReadOnlyList<string> Planes { get; init; }

    /// <summary>What is held or known, by name.</summary>
    public required IReadOnlyList<CheckpointStatus> Checkpoints { get; init; }

    /// <summary>Joins under way, the oldest first.</summary>
    public required IReadOnlyList<JoinStatus> Joins { get; init; }

    /// <summary>Peers with data connections, who has read most first. Local and RDMA readers are not among them: their reads are one-sided.</summary>
    public required IReadOnlyList<ReaderStatus> Readers { get; init; }

    /// <summary>Conversations of the peer service that are open.</summary>
    public required int Conversations { get; init; }

    /// <summary>Bytes sent over data connections since it was started.</summary>
    public required long SentBytes { get; init; }
}

/// <summary>A checkpoint that a server holds, or knows others to hold.</summary>
public sealed class CheckpointStatus
{
    /// <summary>Its name.</summary>
    public required string Name { get; init; }

    /// <summary><c>held</c>, <c>updating</c> (nobody may read it), <c>arriving</c> (a registration or join is on its way) or <c>elsewhere</c> (others hold it).</summary>
    public required string State { get; init; }

    /// <summary>What stands behind its memory: <c>map</c>, <c>memfd</c>, <c>anon</c> or <c>caller</c>; empty when it is not held here.</summary>
    public string Kind { get; init; } = "";

    /// <summary>Tensors held here.</summary>
    public int Tensors { get; init; }

    /// <summary>Their bytes.</summary>
    public long Bytes { get; init; }

    /// <summary>Its generation; 0 when it is not held here.</summary>
    public long Generation { get; init; }

    /// <summary>Chunks whose digest is there.</summary>
    public int DigestsDone { get; init; }

    /// <summary>Chunks in all; 0 when no digests are made.</summary>
    public int DigestsTotal { get; init; }

    /// <summary>Readers that have a lease on it, and updates of inference servers from it.</summary>
    public int Leases { get; init; }

    /// <summary>Who holds it, this server included; none while it is updated.</summary>
    public IReadOnlyList<OwnerStatus> Owners { get; init; } = [];
}

/// <summary>An owner of a checkpoint.</summary>
/// <param name="Rank">Its rank.</param>
/// <param name="Address">Its <c>p2p_store_addr</c>.</param>
/// <param name="Tensors">Tensors that it holds.</param>
public sealed record OwnerStatus(int Rank, string Address, int Tensors);

/// <summary>A join under way.</summary>
/// <param name="Checkpoint">Its local name.</param>
/// <param name="Started">When it began.</param>
/// <param name="Progress">How far it is.</param>
public sealed record JoinStatus(string Checkpoint, DateTimeOffset Started, JoinProgress Progress);

/// <summary>A peer that has data connections open.</summary>
/// <param name="Address">Its address.</param>
/// <param name="Connections">Its connections.</param>
/// <param name="SentBytes">What it was sent, over connections before these too.</param>
public sealed record ReaderStatus(string Address, int Connections, long SentBytes);
