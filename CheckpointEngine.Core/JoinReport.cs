namespace CheckpointEngine;

/// <summary>The phases of a join in seconds; work done hot inside another phase counts there.</summary>
/// <param name="Metas">Fetching and checking the metas.</param>
/// <param name="Plan">Connecting to the owners and planning.</param>
/// <param name="Allocate">Allocating and registering the destination.</param>
/// <param name="Transfer">Reading, hashing what was read, writing it to files.</param>
/// <param name="Verify">Comparing digests that came after their bytes.</param>
/// <param name="Write">Completing and publishing files.</param>
public readonly record struct JoinPhases(double Metas, double Plan, double Allocate, double Transfer, double Verify, double Write);

/// <summary>One round of a join.</summary>
/// <param name="Seconds">Allocation to the last checked byte.</param>
/// <param name="Phases">Its phases.</param>
public readonly record struct JoinRound(double Seconds, JoinPhases Phases);

/// <summary>What a join did.</summary>
public sealed class JoinReport
{
    /// <summary>The local name of the checkpoint.</summary>
    public required string Checkpoint { get; init; }

    /// <summary>Bytes of tensor data read, padding not counted.</summary>
    public required long Bytes { get; init; }

    /// <summary>Number of tensors read.</summary>
    public required int Tensors { get; init; }

    /// <summary>Number of buckets handed out; 0 when the destination was another.</summary>
    public int Buckets { get; init; }

    /// <summary>Seconds of the whole join, metas to publication; of the last round when there were several.</summary>
    public required double Seconds { get; init; }

    /// <summary>Whether every byte was checked against its owner's digest.</summary>
    public required bool Verified { get; init; }

    /// <summary>Why not: <c>disabled</c>, <c>owner-has-no-digests</c> or <c>shared-mapping</c>; null when verified.</summary>
    public string? UnverifiedReason { get; init; }

    /// <summary>Bytes by transport, only those that carried any.</summary>
    public required IReadOnlyDictionary<string, long> Transports { get; init; }

    /// <summary>Bytes by pair of RDMA devices, ours and the owner's joined by a hyphen; empty when nothing came over RDMA.</summary>
    public IReadOnlyDictionary<string, long> RdmaPairs { get; init; } = new Dictionary<string, long>();

    /// <summary>Bytes that were not copied: they are in the owner's memory, mapped read-only.</summary>
    public long AttachedBytes { get; init; }

    /// <summary>Bytes that were not read, padding included: they were on this host already, and the owners' digests say that they are the same (<see cref="JoinOptions.EarlierCheckpoint"/>, or the files of a join that was interrupted).</summary>
    public long ReusedBytes { get; init; }

    /// <summary>Bytes that came from other joiners, and not from the owners (<see cref="JoinOptions.Relay"/>).</summary>
    public long RelayedBytes { get; init; }

    /// <summary>Bytes that were asked for once more, since the connection or the owner that had been asked was lost, or sent something else.</summary>
    public long RetriedBytes { get; init; }

    /// <summary>Which way each owner's bytes came, and why not a better one.</summary>
    public required IReadOnlyList<OwnerPlane> Planes { get; init; }

    /// <summary>The phases; of the last round when there were several.</summary>
    public required JoinPhases Phases { get; init; }

    /// <summary>The rounds.</summary>
    public required IReadOnlyList<JoinRound> Rounds { get; init; }

    /// <summary>Remarks for the user, one line each: memory that could not be locked, files published one by one, side files that were not there.</summary>
    public required IReadOnlyList<string> Warnings { get; init; }

    /// <summary>GiB read per second over <see cref="Seconds"/>.</summary>
    public double GibPerSecond => Seconds > 0 ? Bytes / Seconds / (1L << 30) : 0;
}

/// <summary>How far a join is; a consistent-enough snapshot for a progress bar.</summary>
/// <param name="BytesDone">Bytes that have arrived, of this round.</param>
/// <param name="BytesTotal">Bytes of a round.</param>
/// <param name="Lanes">Lanes at work.</param>
/// <param name="Phase">The phase, one word.</param>
public readonly record struct JoinProgress(long BytesDone, long BytesTotal, int Lanes, string Phase);
