namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Which pairs of a device here and one there carry an owner's bytes, and why others do not.</summary>
/// <remarks>
/// Any number of threads. Pairs on the same rail (device i with device i, of those here that can be used now) come first and share the lanes evenly; the
/// others are for when those are taken or have failed. Of either the ones of devices near the memory at both ends come first. What has failed stays failed
/// until the device here is another: its port came up, or its GIDs changed. Then the rails are others, too, and lanes beside them may move.
/// </remarks>
internal sealed class DevicePairs
{
    private readonly Lock _lock = new();
    // A device that comes and goes without end must not have a join connect for ever.
    private const int MaxMoves = 64;

    private readonly int[] _localCosts;
    private readonly int[] _remoteCosts;
    private readonly int _lanes;
    private readonly bool[] _usable;       // the devices here that the rails were made of
    private Pair[] _pairs;                 // in the order they are taken, those of a rail first
    private int _rails;
    private int _leaving;                  // lanes that end to make room for themselves on a rail
    private int _moves;
    private volatile string? _failure;

    /// <param name="locals">Devices here, at least one.</param>
    /// <param name="remotes">Devices there, at least one.</param>
    /// <param name="lanes">How often a pair may be taken at once.</param>
    internal DevicePairs(int locals, int remotes, int lanes = 1)
        : this(new int[locals], new int[remotes], lanes)
    {
    }

    /// <param name="localCosts">By device here, at least one: how far it is from where the bytes go.</param>
    /// <param name="remoteCosts">By device there, at least one: how far it is from where the bytes are.</param>
    /// <param name="lanes">How often a pair may be taken at once.</param>
    internal DevicePairs(int[] localCosts, int[] remoteCosts, int lanes)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(localCosts.Length, 1, nameof(localCosts));
        ArgumentOutOfRangeException.ThrowIfLessThan(remoteCosts.Length, 1, nameof(remoteCosts));
        _localCosts = localCosts;
        _remoteCosts = remoteCosts;
        _lanes = lanes;
        _usable = new bool[localCosts.Length];
        _pairs = new Pair[localCosts.Length * remoteCosts.Length];
        for (int i = 0; i < _pairs.Length; i++)
        {
            (int local, int remote) = Math.DivRem(i, remoteCosts.Length);
            _pairs[i] = new Pair(local, remote, (long)localCosts[local] + remoteCosts[remote]);
        }
        Array.Fill(_usable, true);
        LayRails();
    }

    /// <summary>Lanes that are worth having at once: those of one pair for each device of the side that has more that can be used now.</summary>
    internal int Preferred(LocalDeviceState local)
    {
        lock (_lock)
        {
            FollowDevices(local);
            return _rails * _lanes;
        }
    }

    /// <summary>Why there is no pair left; null while there is one.</summary>
    internal string? Failure => _failure;

    /// <summary>Takes the first pair that nobody has and that has not failed.</summary>
    /// <param name="local">The devices here; called under the lock.</param>
    /// <returns>Null when every pair is taken or has failed.</returns>
    internal (int Local, int Remote)? TryTake(LocalDeviceState local)
    {
        lock (_lock)
        {
            FollowDevices(local);
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

    /// <summary>
    /// Whether a lane should end because a rail has room for it that it is not on; then <see cref="Left"/> is to be called when it has given its pair back.
    /// </summary>
    /// <param name="pair">Its devices; null for a lane that is not over RDMA.</param>
    /// <param name="local">The devices here; called under the lock.</param>
    /// <remarks>No more lanes leave at once than there is room for, and no more in all than <see cref="MaxMoves"/>.</remarks>
    internal bool TryLeave((int Local, int Remote)? pair, LocalDeviceState local)
    {
        lock (_lock)
        {
            FollowDevices(local);
            int room = 0;
            for (int i = 0; i < _rails; i++)
            {
                if (pair == (_pairs[i].Local, _pairs[i].Remote))
                {
                    return false;
                }
                room += FailureOf(_pairs[i], local) is null ? _lanes - _pairs[i].Lanes : 0;
            }
            if (room <= _leaving || _moves == MaxMoves)
            {
                return false;
            }
            _leaving++;
            _moves++;
            return true;
        }
    }

    /// <summary>Says that a lane that was let leave has ended.</summary>
    internal void Left()
    {
        lock (_lock)
        {
            _leaving--;
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

    // Under the lock, which nothing is allocated under but when a device has gone or come.
    private void FollowDevices(LocalDeviceState local)
    {
        bool changed = false;
        for (int device = 0; device < _usable.Length; device++)
        {
            bool usable = local(device, out _) is null;
            changed |= usable != _usable[device];
            _usable[device] = usable;
        }
        if (changed)
        {
            LayRails();
        }
    }

    // Devices of the same place go together, so that no rail moves when another one's device goes; then what is left over on both sides; and what one side
    // has more is shared evenly by the other, whose nearer ones take what does not come out even.
    private void LayRails()
    {
        bool any = Array.Exists(_usable, static usable => usable);
        bool[] locals = Array.ConvertAll(_usable, usable => usable || !any);
        int[] localUses = new int[locals.Length];
        int[] remoteUses = new int[_remoteCosts.Length];
        Array.ForEach(_pairs, static pair => pair.Place = int.MaxValue);
        _rails = 0;
        for (int device = 0; device < Math.Min(locals.Length, remoteUses.Length); device++)
        {
            if (locals[device])
            {
                Lay(device, device);
            }
        }
        while (true)
        {
            int local = FirstUnused(localUses, device => locals[device]);
            int remote = FirstUnused(remoteUses, static _ => true);
            if (local < 0 && remote < 0)
            {
                break;
            }
            Lay(
                local >= 0 ? local : LeastUsed(localUses, _localCosts, device => locals[device]),
                remote >= 0 ? remote : LeastUsed(remoteUses, _remoteCosts, static _ => true));
        }
        Array.Sort(_pairs, Pair.ByPlace);
        Array.Sort(_pairs, 0, _rails, Comparer<Pair>.Create(Pair.ByCost));
        Array.Sort(_pairs, _rails, _pairs.Length - _rails, Comparer<Pair>.Create(Pair.ByCost));

        void Lay(int local, int remote)
        {
            localUses[local]++;
            remoteUses[remote]++;
            Array.Find(_pairs, pair => pair.Local == local && pair.Remote == remote)!.Place = _rails++;
        }
    }

    private static int FirstUnused(int[] uses, Predicate<int> isUsable)
    {
        for (int device = 0; device < uses.Length; device++)
        {
            if (uses[device] == 0 && isUsable(device))
            {
                return device;
            }
        }
        return -1;
    }

    private static int LeastUsed(int[] uses, int[] costs, Predicate<int> isUsable)
    {
        int least = -1;
        for (int device = 0; device < uses.Length; device++)
        {
            if (isUsable(device) && (least < 0 || uses[device] < uses[least] || (uses[device] == uses[least] && costs[device] < costs[least])))
            {
                least = device;
            }
        }
        return least;
    }

    private sealed class Pair(int local, int remote, long cost)
    {
        internal static int ByPlace(Pair a, Pair b) => a.Place != b.Place ? a.Place.CompareTo(b.Place) : ByDevices(a, b);

        internal static int ByCost(Pair a, Pair b) => a.Cost != b.Cost ? a.Cost.CompareTo(b.Cost) : ByPlace(a, b);

        private static int ByDevices(Pair a, Pair b) => a.Local != b.Local ? a.Local.CompareTo(b.Local) : a.Remote.CompareTo(b.Remote);

        private long Cost { get; } = cost;

        /// <summary>Which rail it is; the highest number when it is none.</summary>
        internal int Place { get; set; } = int.MaxValue;

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
