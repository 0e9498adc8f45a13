using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>Which owners of a join are still read from, and who stands in for those that are not.</summary>
/// <remarks>Any number of threads. An owner that was dropped stays dropped for this join.</remarks>
internal sealed class OwnerReplicas
{
    /// <summary>How long an owner may go without a byte where another can stand in for it.</summary>
    internal static readonly TimeSpan StallTimeout = TimeSpan.FromSeconds(5);

    private readonly Lock _lock = new();
    private readonly OwnerLink?[] _links;
    private readonly int[] _needed;
    private readonly Exception?[] _gone;

    /// <param name="table">Who can stand in for whom.</param>
    /// <param name="plan">What is read.</param>
    /// <param name="links">The owners.</param>
    internal OwnerReplicas(ReplicaTable table, TransferPlan plan, OwnerLink?[] links)
    {
        Table = table;
        _links = links;
        _gone = new Exception?[links.Length];
        _needed = [.. Enumerable.Range(0, links.Length).Where(owner => plan.OwnerBytes[owner] != 0)];
    }

    /// <summary>Who can stand in for whom.</summary>
    internal ReplicaTable Table { get; }

    /// <summary>Whether an owner is still read from.</summary>
    internal bool IsLive(int owner) => _links[owner] is not null && Volatile.Read(ref _gone[owner]) is null;

    /// <summary>Why an owner was dropped; null when it was not.</summary>
    internal Exception? WhyGone(int owner) => Volatile.Read(ref _gone[owner]);

    /// <summary>Drops an owner, if everything can be had without it.</summary>
    /// <returns>False: nobody stands in for it, and it is not dropped.</returns>
    internal bool TryDrop(int owner, Exception reason)
    {
        lock (_lock)
        {
            if (_gone[owner] is not null)
            {
                return true;
            }
            foreach (int needed in _needed)
            {
                if (!((needed != owner && IsLive(needed)) || CanBeReadWithout(needed, owner)))
                {
                    return false;
                }
            }
            Volatile.Write(ref _gone[owner], reason);
            return true;
        }
    }

    /// <summary>Who vouches for what is read from <paramref name="owner"/>: the first in the metas of those that hold it and are live.</summary>
    /// <returns>-1 when there is none.</returns>
    internal int ReferenceOf(int owner)
    {
        int first = IsLive(owner) ? owner : -1;
        foreach (int other in Table.StandInsOf(owner))
        {
            if (IsLive(other) && (first < 0 || other < first))
            {
                first = other;
            }
        }
        return first;
    }

    private bool CanBeReadWithout(int owner, int without)
    {
        foreach (int other in Table.StandInsOf(owner))
        {
            if (other != without && IsLive(other))
            {
                return true;
            }
        }
        return false;
    }
}
