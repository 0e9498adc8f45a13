namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Which pairs of a device here and one there carry an owner's bytes, and why others do not.</summary>
/// <remarks>
/// Any number of threads. Pairs on the same rail (device i with device i) come first and share the lanes evenly; the others are for when those are
/// taken or have failed. What has failed stays failed.
/// </remarks>
internal sealed class DevicePairs
{
    private readonly Lock _lock = new();
    private readonly Pair[] _pairs;        // in the order they are taken, those of a rail first
    private readonly int _rails;
    private readonly int _lanes;
    private volatile string? _failure;

    /// <param name="locals">Devices here, at least one.</param>
    /// <param name="remotes">Devices there, at least one.</param>
    /// <param name="lanes">How often a pair may be taken at once.</param>
    internal DevicePairs(int locals, int remotes, int lanes = 1)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(locals, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(remotes, 1);
        _pairs = MakePairs(locals, remotes);
        _rails = Math.Max(locals, remotes);
        _lanes = lanes;
        Preferred = _rails * lanes;
    }

    /// <summary>Lanes that are worth having at once: those of one pair for each device of the side that has more.</summary>
    internal int Preferred { get; }

    /// <summary>Why there is no pair left; null while there is one.</summary>
    internal string? Failure => _failure;

    /// <summary>Takes the first pair that nobody has and that has not failed.</summary>
    /// <param name="localFailure">Why a device here can no longer be used, null while it can; called under the lock.</param>
    /// <returns>Null when every pair is taken or has failed.</returns>
    internal (int Local, int Remote)? TryTake(Func<int, string?> localFailure)
    {
        lock (_lock)
        {
            if ((Emptiest(_pairs.AsSpan(0, _rails), localFailure) ?? Emptiest(_pairs.AsSpan(_rails), localFailure)) is Pair free)
            {
                free.Lanes++;
                return (free.Local, free.Remote);
            }
            if (Array.TrueForAll(_pairs, pair => pair.Failure is not null))
            {
                _failure ??= _pairs[0].Failure;
            }
            return null;
        }
    }

    /// <summary>Whether <see cref="TryTake"/> would give one.</summary>
    internal bool HasFree
    {
        get
        {
            lock (_lock)
            {
                return Emptiest(_pairs, null) is not null;
            }
        }
    }

    /// <summary>Gives a pair back.</summary>
    /// <param name="local">Its device here.</param>
    /// <param name="remote">Its device there.</param>
    /// <param name="failure">Why the pair is not to be taken again; null when it is well.</param>
    /// <param name="ofOwner">The reason holds for every pair.</param>
    /// <returns>Whether the pair has failed by this, and had not before.</returns>
    internal bool Return(int local, int remote, string? failure, bool ofOwner)
    {
        lock (_lock)
        {
            Pair pair = Array.Find(_pairs, candidate => candidate.Local == local && candidate.Remote == remote)!;
            pair.Lanes--;
            if (failure is null || pair.Failure is not null)
            {
                return false;
            }
            foreach (Pair lost in _pairs)
            {
                lost.Failure ??= ofOwner || lost == pair ? failure : null;
            }
            if (Array.TrueForAll(_pairs, lost => lost.Failure is not null))
            {
                _failure = failure;
            }
            return true;
        }
    }

    private Pair? Emptiest(ReadOnlySpan<Pair> pairs, Func<int, string?>? localFailure)
    {
        for (int lanes = 0; lanes < _lanes; lanes++)
        {
            foreach (Pair pair in pairs)
            {
                pair.Failure ??= localFailure?.Invoke(pair.Local);
                if (pair.Failure is null && pair.Lanes == lanes)
                {
                    return pair;
                }
            }
        }
        return null;
    }

    private static Pair[] MakePairs(int locals, int remotes)
    {
        var pairs = new List<Pair>(locals * remotes);
        for (int i = 0; i < Math.Max(locals, remotes); i++)
        {
            pairs.Add(new Pair(i % locals, i % remotes));
        }
        for (int local = 0; local < locals; local++)
        {
            for (int remote = 0; remote < remotes; remote++)
            {
                if (!pairs.Exists(pair => pair.Local == local && pair.Remote == remote))
                {
                    pairs.Add(new Pair(local, remote));
                }
            }
        }
        return [.. pairs];
    }

    private sealed class Pair(int local, int remote)
    {
        internal int Local { get; } = local;

        internal int Remote { get; } = remote;

        internal int Lanes { get; set; }

        internal string? Failure { get; set; }
    }
}
