namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Which pairs of a device here and one there carry an owner's bytes, and why others do not.</summary>
/// <remarks>
/// Any number of threads. Pairs on the same rail (device i with device i) come first and share the lanes evenly; the others are for when those are
/// taken or have failed. Of either the ones of devices near the memory at both ends come first. What has failed stays failed until the device here is another: its port came up, or its GIDs changed.
/// </remarks>
internal sealed class DevicePairs
{
    private readonly Lock _lock = new();
    private readonly Pair[] _pairs;        // in the order they are taken, those of a rail first
    private readonly int _rails;
    private readonly int _lanes;
    private volatile string? _failure;

    /// <summary>The cost of a device here that cannot be used now: it is for when others have failed.</summary>
    internal const int Unusable = int.MaxValue;

    /// <param name="locals">Devices here, at least one.</param>
    /// <param name="remotes">Devices there, at least one.</param>
    /// <param name="lanes">How often a pair may be taken at once.</param>
    internal DevicePairs(int locals, int remotes, int lanes = 1)
        : this(new int[locals], new int[remotes], lanes)
    {
    }

    /// <param name="localCosts">By device here, at least one: how far it is from where the bytes go; <see cref="Unusable"/>.</param>
    /// <param name="remoteCosts">By device there, at least one: how far it is from where the bytes are.</param>
    /// <param name="lanes">How often a pair may be taken at once.</param>
    internal DevicePairs(int[] localCosts, int[] remoteCosts, int lanes)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(localCosts.Length, 1, nameof(localCosts));
        ArgumentOutOfRangeException.ThrowIfLessThan(remoteCosts.Length, 1, nameof(remoteCosts));
        int[] locals = new int[localCosts.Length];
        for (int i = 0; i < locals.Length; i++)
        {
            locals[i] = i;
        }
        _pairs = MakePairs(locals, localCosts, remoteCosts, out _rails);
        _lanes = lanes;
        Preferred = _rails * lanes;
    }

    /// <summary>Lanes that are worth having at once: those of one pair for each device of the side that has more.</summary>
    internal int Preferred { get; }

    /// <summary>Why there is no pair left; null while there is one.</summary>
    internal string? Failure => _failure;

    /// <summary>Takes the first pair that nobody has and that has not failed.</summary>
    /// <param name="local">The devices here; called under the lock.</param>
    /// <returns>Null when every pair is taken or has failed.</returns>
    internal (int Local, int Remote)? TryTake(LocalDeviceState local)
    {
        lock (_lock)
        {
            if ((Emptiest(_pairs.AsSpan(0, _rails), local) ?? Emptiest(_pairs.AsSpan(_rails), local)) is Pair free)
            {
                free.Lanes++;
                _failure = null;
                return (free.Local, free.Remote);
            }
            NoteFailure(local);
            return null;
        }
    }

    /// <summary>Whether <see cref="TryTake"/> would give one.</summary>
    internal bool HasFree(LocalDeviceState local)
    {
        lock (_lock)
        {
            return Emptiest(_pairs, local) is not null;
        }
    }

    /// <summary>Gives a pair back.</summary>
    /// <param name="local">Its device here.</param>
    /// <param name="remote">Its device there.</param>
    /// <param name="failure">Why the pair is not to be taken again; null when it is well.</param>
    /// <param name="ofOwner">The reason holds for every pair, for ever.</param>
    /// <param name="epoch">Of the device here, when the pair was connected.</param>
    /// <param name="mayHeal">The pair may be connected once more, as often as it has lanes.</param>
    /// <returns>Whether the pair has failed by this, and had not before.</returns>
    internal bool Return(int local, int remote, string? failure, bool ofOwner, int epoch = 0, bool mayHeal = false)
    {
        lock (_lock)
        {
            Pair pair = Array.Find(_pairs, candidate => candidate.Local == local && candidate.Remote == remote)!;
            pair.Lanes--;
            if (failure is null || pair.Failure is not null || (mayHeal && ++pair.Healed <= _lanes))
            {
                return false;
            }
            foreach (Pair lost in _pairs)
            {
                if (lost == pair || ofOwner)
                {
                    lost.Failure ??= failure;
                    lost.FailedAt = ofOwner ? null : epoch;
                }
            }
            if (Array.TrueForAll(_pairs, lost => lost.Failure is not null))
            {
                _failure = failure;
            }
            return true;
        }
    }

    private Pair? Emptiest(ReadOnlySpan<Pair> pairs, LocalDeviceState local)
    {
        for (int lanes = 0; lanes < _lanes; lanes++)
        {
            foreach (Pair pair in pairs)
            {
                if (pair.Lanes == lanes && FailureOf(pair, local) is null)
                {
                    return pair;
                }
            }
        }
        return null;
    }

    private static string? FailureOf(Pair pair, LocalDeviceState local)
    {
        string? ofDevice = local(pair.Local, out int epoch);
        if (pair.Failure is not null && pair.FailedAt is int failedAt && failedAt != epoch)
        {
            pair.Failure = null;
        }
        return pair.Failure ?? ofDevice;
    }

    private void NoteFailure(LocalDeviceState local)
    {
        string? reason = _failure;
        foreach (Pair pair in _pairs)
        {
            string? failure = FailureOf(pair, local);
            if (failure is null)
            {
                reason = null;
                break;
            }
            reason ??= failure;
        }
        _failure = reason;
    }

    // The first of each side go together, and what one side has more is shared evenly by the other: its nearer ones take what does not come out even.
    private static Pair[] MakePairs(int[] locals, int[] localCosts, int[] remoteCosts, out int rails)
    {
        int[] usable = Array.FindAll(locals, local => localCosts[local] != Unusable);
        usable = usable.Length == 0 ? locals : usable;
        bool fewerHere = usable.Length < remoteCosts.Length;
        int few = fewerHere ? usable.Length : remoteCosts.Length;
        var pairs = new List<Pair>(locals.Length * remoteCosts.Length);
        int[] uses = new int[few];
        for (int i = 0; i < Math.Max(usable.Length, remoteCosts.Length); i++)
        {
            int partner = i;
            if (i >= few)
            {
                partner = 0;
                for (int other = 1; other < few; other++)
                {
                    bool nearer = CostOf(other) < CostOf(partner);
                    partner = uses[other] < uses[partner] || (uses[other] == uses[partner] && nearer) ? other : partner;
                }
            }
            uses[partner]++;
            Add(fewerHere ? usable[partner] : usable[i], fewerHere ? i : partner);
        }
        rails = pairs.Count;
        foreach (int local in locals)
        {
            for (int remote = 0; remote < remoteCosts.Length; remote++)
            {
                if (!pairs.Exists(pair => pair.Local == local && pair.Remote == remote))
                {
                    Add(local, remote);
                }
            }
        }
        Pair[] made = [.. pairs];
        Array.Sort(made, 0, rails, Comparer<Pair>.Create(Pair.Compare));
        Array.Sort(made, rails, made.Length - rails, Comparer<Pair>.Create(Pair.Compare));
        return made;

        int CostOf(int place) => fewerHere ? localCosts[usable[place]] : remoteCosts[place];

        void Add(int local, int remote) => pairs.Add(new Pair(local, remote, (long)localCosts[local] + remoteCosts[remote], pairs.Count));
    }

    private sealed class Pair(int local, int remote, long cost, int place)
    {
        internal static int Compare(Pair a, Pair b) => a.Cost != b.Cost ? a.Cost.CompareTo(b.Cost) : a.Place.CompareTo(b.Place);

        private long Cost { get; } = cost;

        private int Place { get; } = place;

        internal int Local { get; } = local;

        internal int Remote { get; } = remote;

        internal int Lanes { get; set; }

        internal string? Failure { get; set; }

        /// <summary>The epoch of the device here that the failure is of; null: of all.</summary>
        internal int? FailedAt { get; set; }

        internal int Healed { get; set; }
    }
}

/// <summary>Tells why a device here can no longer be used, null while it can.</summary>
/// <param name="device">Its place.</param>
/// <param name="epoch">Another number for every state of it in which what failed before may go well.</param>
internal delegate string? LocalDeviceState(int device, out int epoch);
