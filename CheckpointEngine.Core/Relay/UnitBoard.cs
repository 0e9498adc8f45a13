namespace CheckpointEngine.Relay;

/// <summary>
/// A joiner's units of one owner: which it has, which it was given to read from the owner, which of the others has which. Chooses what to read next from whom:
/// of what a relay has and this joiner lacks, what few of its relays have.
/// </summary>
/// <remarks>Any number of threads. It knows no socket and no clock, as <see cref="Swarm"/>. Nothing is allocated for a unit once its lists have grown.</remarks>
internal sealed class UnitBoard
{
    // Of so many at random the rarest: within a few per cent of the rarest of all, without looking through all.
    private const int Candidates = 8;

    private readonly Lock _lock = new();
    private readonly Random _random;
    private readonly int[] _lengths;
    private readonly UnitState[] _states;
    private readonly bool[] _isGiven;           // by the owner, and not here yet
    private readonly byte[] _holders;           // relays that have it
    private readonly int[] _log;                // what may be offered, in the order in which it came
    private readonly Queue<int> _toRead = new();    // from the owner
    private readonly Shelf?[] _shelves;
    private TaskCompletionSource? _grown;       // completes with the next entry of the log; null while nobody waits
    private int _logged;
    private int _done;
    private int _given;
    private long _missingBytes;

    private enum UnitState : byte
    {
        Missing = 0,
        InFlight,
        Done,
    }

    // What one relay has: all of it, and of that what may be missing here.
    private sealed class Shelf(int units)
    {
        internal bool[] Has { get; } = new bool[units];

        internal List<int> Offers { get; } = [];

        internal long TakenBytes { get; set; }

        internal long TakenBefore { get; set; }     // when it was last asked
    }

    /// <param name="lengths">Bytes of each unit.</param>
    /// <param name="relays">The most relays at a time.</param>
    /// <param name="random">Chooses among units.</param>
    internal UnitBoard(int[] lengths, int relays, Random random)
    {
        _lengths = lengths;
        _random = random;
        _states = new UnitState[lengths.Length];
        _isGiven = new bool[lengths.Length];
        _holders = new byte[lengths.Length];
        _log = new int[lengths.Length];
        _shelves = new Shelf?[relays];
        foreach (int length in lengths)
        {
            _missingBytes += length;
        }
    }

    /// <summary>Number of units.</summary>
    internal int Units => _lengths.Length;

    /// <summary>Bytes that nobody has begun to read.</summary>
    internal long MissingBytes => Volatile.Read(ref _missingBytes);

    /// <summary>Units that are here.</summary>
    internal int Done => Volatile.Read(ref _done);

    /// <summary>Units that the owner has given and that are not here yet.</summary>
    internal int Pending => Volatile.Read(ref _given);

    /// <summary>Units that may be offered.</summary>
    internal int Logged => Volatile.Read(ref _logged);

    /// <summary>Takes the owner's word for what to read from it.</summary>
    internal void Give(ReadOnlySpan<int> units)
    {
        lock (_lock)
        {
            foreach (int unit in units)
            {
                if (_states[unit] != UnitState.Done && !_isGiven[unit])
                {
                    _isGiven[unit] = true;
                    _given++;
                    _toRead.Enqueue(unit);
                }
            }
        }
    }

    /// <summary>Makes room for a relay.</summary>
    /// <returns>Its number, below the most relays; -1 when there are as many.</returns>
    internal int AddRelay()
    {
        lock (_lock)
        {
            int relay = Array.IndexOf(_shelves, null);
            if (relay >= 0)
            {
                _shelves[relay] = new Shelf(Units);
            }
            return relay;
        }
    }

    /// <summary>Forgets a relay.</summary>
    internal void RemoveRelay(int relay)
    {
        lock (_lock)
        {
            if (_shelves[relay] is Shelf shelf)
            {
                for (int unit = 0; unit < Units; unit++)
                {
                    _holders[unit] -= shelf.Has[unit] ? (byte)1 : (byte)0;
                }
                _shelves[relay] = null;
            }
        }
    }

    /// <summary>Notes what a relay has; units beyond the last, and those that it has told already, are left out.</summary>
    internal void RelayHas(int relay, ReadOnlySpan<int> units)
    {
        lock (_lock)
        {
            if (_shelves[relay] is not Shelf shelf)
            {
                return;
            }
            foreach (int unit in units)
            {
                if ((uint)unit < (uint)Units && !shelf.Has[unit])
                {
                    shelf.Has[unit] = true;
                    _holders[unit]++;
                    if (_states[unit] == UnitState.Missing)
                    {
                        shelf.Offers.Add(unit);
                    }
                }
            }
        }
    }

    /// <summary>Takes the next unit to read from the owner.</summary>
    /// <param name="mayTake">Whether a unit may be read by now; null: any.</param>
    /// <param name="unit">The unit.</param>
    internal bool TryTakeGiven(Func<int, bool>? mayTake, out int unit)
    {
        lock (_lock)
        {
            if (!HasGivenLocked(mayTake))
            {
                unit = -1;
                return false;
            }
            unit = _toRead.Dequeue();
            Begin(unit);
            return true;
        }
    }

    /// <summary>Whether <see cref="TryTakeGiven"/> would take one.</summary>
    internal bool HasGiven(Func<int, bool>? mayTake)
    {
        lock (_lock)
        {
            return HasGivenLocked(mayTake);
        }
    }

    /// <summary>Takes a unit to read from a relay.</summary>
    internal bool TryTakeFrom(int relay, Func<int, bool>? mayTake, out int unit)
    {
        lock (_lock)
        {
            unit = -1;
            if (_shelves[relay] is not Shelf shelf || !Find(shelf, mayTake, out int place))
            {
                return false;
            }
            unit = shelf.Offers[place];
            RemoveAt(shelf.Offers, place);
            shelf.TakenBytes += _lengths[unit];
            Begin(unit);
            return true;
        }
    }

    /// <summary>Whether <see cref="TryTakeFrom"/> would take one.</summary>
    internal bool HasUnitOf(int relay, Func<int, bool>? mayTake)
    {
        lock (_lock)
        {
            return _shelves[relay] is Shelf shelf && Find(shelf, mayTake, out _);
        }
    }

    /// <summary>About the bytes that a relay has and nobody has begun to read.</summary>
    internal long BytesOf(int relay)
    {
        lock (_lock)
        {
            return _shelves[relay] is { Offers.Count: > 0 } shelf ? Math.Min(_missingBytes, (long)shelf.Offers.Count * _lengths[shelf.Offers[0]]) : 0;
        }
    }

    /// <summary>The relay of which the fewest bytes were taken since this was last asked; -1 when there is none.</summary>
    internal int FindLeastUsed()
    {
        lock (_lock)
        {
            int found = -1;
            long least = long.MaxValue;
            for (int relay = 0; relay < _shelves.Length; relay++)
            {
                if (_shelves[relay] is Shelf shelf)
                {
                    long taken = shelf.TakenBytes - shelf.TakenBefore;
                    shelf.TakenBefore = shelf.TakenBytes;
                    (found, least) = taken < least ? (relay, taken) : (found, least);
                }
            }
            return found;
        }
    }

    /// <summary>Puts a unit back that could not be read.</summary>
    internal void GiveBack(int unit)
    {
        lock (_lock)
        {
            _states[unit] = UnitState.Missing;
            _missingBytes += _lengths[unit];
            if (_isGiven[unit])
            {
                _toRead.Enqueue(unit);
            }
            foreach (Shelf? shelf in _shelves)
            {
                if (shelf is not null && shelf.Has[unit] && !shelf.Offers.Contains(unit))
                {
                    shelf.Offers.Add(unit);
                }
            }
        }
    }

    /// <summary>Notes a unit that is here.</summary>
    /// <param name="unit">The unit: one that was taken, or one that was there from the start.</param>
    /// <param name="offer">Whether its bytes were checked, so that others may have it.</param>
    internal void Complete(int unit, bool offer)
    {
        TaskCompletionSource? grown = null;
        lock (_lock)
        {
            if (_states[unit] == UnitState.Done)
            {
                return;
            }
            _missingBytes -= _states[unit] == UnitState.Missing ? _lengths[unit] : 0;
            _states[unit] = UnitState.Done;
            _done++;
            if (_isGiven[unit])
            {
                _isGiven[unit] = false;
                _given--;
            }
            if (offer)
            {
                _log[_logged] = unit;
                Volatile.Write(ref _logged, _logged + 1);
                (grown, _grown) = (_grown, null);
            }
        }
        grown?.SetResult();
    }

    /// <summary>What may be offered, from the one on that came <paramref name="from"/>th.</summary>
    internal ReadOnlyMemory<int> LogFrom(int from) => _log.AsMemory(from, Logged - from);

    /// <summary>Completes when more than <paramref name="known"/> units may be offered.</summary>
    internal Task WaitForLogAsync(int known, CancellationToken cancellationToken)
    {
        lock (_lock)
        {
            return _logged > known ? Task.CompletedTask : (_grown ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)).Task.WaitAsync(cancellationToken);
        }
    }

    /// <summary>Gives all that is missing, when there is nobody to ask who reads what.</summary>
    internal void GiveAll() => Give([.. Enumerable.Range(0, Units)]);

    /// <summary>Some of the units that are missing and that no relay has; none when a relay has one that is missing, or the owner has given some that wait.</summary>
    /// <param name="most">The most of them.</param>
    internal int[] FindWanted(int most)
    {
        lock (_lock)
        {
            if (_missingBytes == 0 || HasGivenLocked(null))
            {
                return [];
            }
            foreach (Shelf? shelf in _shelves)
            {
                if (shelf is not null && Find(shelf, null, out _))
                {
                    return [];
                }
            }
            var wanted = new List<int>(most);
            int start = _random.Next(Units);
            for (int i = 0; i < Units && wanted.Count < most; i++)
            {
                int unit = (start + i) % Units;
                if (_states[unit] == UnitState.Missing && _holders[unit] == 0)
                {
                    wanted.Add(unit);
                }
            }
            return [.. wanted];
        }
    }

    private bool HasGivenLocked(Func<int, bool>? mayTake)
    {
        while (_toRead.TryPeek(out int unit))
        {
            if (_states[unit] == UnitState.Missing)
            {
                return mayTake?.Invoke(unit) != false;
            }
            _toRead.Dequeue();      // it came from a relay, or comes
        }
        return false;
    }

    private bool Find(Shelf shelf, Func<int, bool>? mayTake, out int place)
    {
        place = -1;
        List<int> offers = shelf.Offers;
        int rarest = int.MaxValue;
        for (int tries = 0; tries < Candidates && offers.Count != 0; tries++)
        {
            int at = _random.Next(offers.Count);
            while (_states[offers[at]] != UnitState.Missing)
            {
                RemoveAt(offers, at);
                place = place == offers.Count ? at : place;     // the last one has moved here
                if (offers.Count == 0)
                {
                    return false;
                }
                at = _random.Next(offers.Count);
            }
            if (_holders[offers[at]] < rarest && mayTake?.Invoke(offers[at]) != false)
            {
                rarest = _holders[offers[at]];
                place = at;
            }
        }
        return place >= 0;
    }

    private static void RemoveAt(List<int> offers, int place)
    {
        offers[place] = offers[^1];
        offers.RemoveAt(offers.Count - 1);
    }

    private void Begin(int unit)
    {
        _states[unit] = UnitState.InFlight;
        _missingBytes -= _lengths[unit];
    }
}
