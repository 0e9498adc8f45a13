namespace CheckpointEngine;

/// <summary>Which way the bytes of an owner come, and why not a better one.</summary>
/// <param name="Rank">The owner's rank.</param>
/// <param name="Address">Its <c>p2p_store_addr</c>.</param>
/// <param name="Transport"><c>local</c>, <c>rdma</c> or <c>tcp</c>.</param>
/// <param name="Attached">Its memory itself is the destination, mapped read-only; nothing was copied.</param>
/// <param name="Reason">Why the better plane was not taken; null when the best was.</param>
public sealed record OwnerPlane(int Rank, string Address, string Transport, bool Attached, string? Reason)
{
    /// <summary>What crosses the network does so within TLS 1.3.</summary>
    public bool Encrypted { get; init; }

    /// <summary>One line, for a person.</summary>
    public override string ToString() => $"rank {Rank} at {Address}: {Transport}{(Attached ? ", attached" : Encrypted ? ", encrypted" : "")}{(Reason is null ? "" : $"; {Reason}")}";
}
