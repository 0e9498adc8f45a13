using System.Net;

namespace CheckpointEngine.Relay;

/// <summary>
/// The owner's side of a relay: the joiners that read the same units of one generation. Says who reads which unit from the owner, each unit once as long as
/// the joiners can have it from each other, and tells them where those are that offer what they have.
/// </summary>
/// <remarks>
/// Any number of threads. Pure: it knows no socket and no clock, time comes with each call, and the same calls with the same random numbers have the same answers.
/// It keeps a byte for each unit and nothing of who has what, which the joiners tell each other.
/// </remarks>
internal sealed class Swarm
{
    /// <summary>How long a joiner may hold units without bringing one of them before others are given them.</summary>
    internal static readonly TimeSpan StallTime = TimeSpan.FromSeconds(5);

    /// <summary>The most that read from one joiner at a time: one more than it reads from, so that all of them have about as many.</summary>
    internal const int MostReaders = SwarmAsker.MostRelays + 1;

    // What is read from the owner at a time is done soon, so that it can be passed on: half a second of units at the rate of now, within these.
    private const int LeastAtOnce = 16;
    private const int MostAtOnce = 128;
    private const double SecondsAtOnce = 0.5;

    // Who was given nothing asks again so that all of them together ask 5,000 times a second at most.
    private const double AskPauseMsPerMember = 0.2;
    private const int LeastAskPauseMs = 50;
    private const int MostAskPauseMs = 500;
    private const int HeartbeatMs = 500;

    // Of who asks twice a second: nobody waits for one that has stopped.
    private static readonly TimeSpan s_silence = TimeSpan.FromSeconds(3);

    private static readonly TimeSpan s_rateWindow = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan s_sweepInterval = TimeSpan.FromMilliseconds(500);

    private readonly Lock _lock = new();
    private readonly Random _random;
    private readonly bool[] _isPending;             // with a joiner that has not brought it yet
    private readonly Queue<int> _returned = new();  // given out, and not brought
    private readonly List<Seat> _seats = [];
    private readonly List<Seat>[] _offering = [[], [], []];     // those that can be read from, by the least that they are guarded by
    private int _next;                              // the first unit that nobody was given yet
    private int _pending;
    private int _complete;
    private int _silent;                            // of those that are not complete
    private TimeSpan _windowStart;
    private int _windowUnits;
    private double _unitsPerSecond;
    private TimeSpan _swept;

    /// <param name="units">Number of units; at least 1.</param>
    /// <param name="random">Chooses whom a joiner is told of.</param>
    internal Swarm(int units, Random random)
    {
        Units = units;
        _random = random;
        _isPending = new bool[units];
    }

    /// <summary>Number of units.</summary>
    internal int Units { get; }

    /// <summary>Joiners that are there.</summary>
    internal int Count
    {
        get
        {
            lock (_lock)
            {
                return _seats.Count;
            }
        }
    }

    /// <summary>A joiner comes.</summary>
    /// <param name="address">Where it comes from.</param>
    /// <param name="now">The time, from any start.</param>
    internal Seat Enter(IPAddress address, TimeSpan now)
    {
        var seat = new Seat(this, address) { LastProgress = now, LastAsked = now };
        lock (_lock)
        {
            _seats.Add(seat);
        }
        return seat;
    }

    /// <summary>A joiner's place in a swarm. Dispose leaves it: what it was given and has not brought is given to others.</summary>
    internal sealed class Seat(Swarm swarm, IPAddress address) : IDisposable
    {
        internal Queue<int> Given { get; } = new();

        internal IPAddress Address { get; } = address;

        internal int Port { get; set; }

        /// <summary>How what it offers is guarded.</summary>
        internal RelaySecurity Speaks { get; set; }

        internal int Done { get; set; }

        /// <summary>Those that read from it: as it says, and as many as were told of it since.</summary>
        internal int Readers { get; set; }

        internal TimeSpan LastProgress { get; set; }

        internal TimeSpan LastAsked { get; set; }

        internal bool IsSilent { get; set; }

        internal bool IsGone { get; set; }

        internal bool IsComplete => Done == swarm.Units;

        /// <summary>Answers what it asks.</summary>
        internal SwarmAnswer Ask(in SwarmRequest request, TimeSpan now) => swarm.Answer(this, request, now);

        public void Dispose() => swarm.Leave(this);
    }

    private SwarmAnswer Answer(Seat seat, in SwarmRequest request, TimeSpan now)
    {
        lock (_lock)
        {
            if (seat.IsGone)
            {
                return default;
            }
            Note(seat, request, now);
            Sweep(now);
            int[] given = Give(seat, request);
            int incomplete = Waiting;
            int pause = given.Length != 0 || seat.IsComplete ? HeartbeatMs : (int)Math.Clamp(_seats.Count * AskPauseMsPerMember, LeastAskPauseMs, MostAskPauseMs);
            return new SwarmAnswer(given, Introduce(seat, request.Members, request.Demands), incomplete, pause);
        }
    }

    // Joiners that lack something and are at work.
    private int Waiting => _seats.Count - _complete - _silent;

    private void Note(Seat seat, in SwarmRequest request, TimeSpan now)
    {
        if (request.Port != 0 && seat.Port == 0)
        {
            seat.Port = request.Port;
            seat.Speaks = request.Speaks;
            for (int security = 0; security <= (int)seat.Speaks; security++)
            {
                _offering[security].Add(seat);
            }
        }
        seat.Readers = request.Readers;
        seat.LastAsked = now;
        SetSilent(seat, false);
        _complete += seat.IsComplete ? -1 : 0;
        seat.Done = Math.Min(request.Done, Units);
        _complete += seat.IsComplete ? 1 : 0;
        // They come in about the order in which they were given.
        while (seat.Given.Count > request.Pending)
        {
            _isPending[seat.Given.Dequeue()] = false;
            _pending--;
            _windowUnits++;
            seat.LastProgress = now;
        }
        if (now - _windowStart >= s_rateWindow)
        {
            double rate = _windowUnits / (now - _windowStart).TotalSeconds;
            _unitsPerSecond = (_unitsPerSecond + rate) / 2;
            (_windowStart, _windowUnits) = (now, 0);
        }
    }

    private void Sweep(TimeSpan now)
    {
        if (now - _swept < s_sweepInterval)
        {
            return;
        }
        _swept = now;
        foreach (Seat seat in _seats)
        {
            if (seat.Given.Count != 0 && now - seat.LastProgress >= StallTime)
            {
                TakeBack(seat);
            }
            SetSilent(seat, !seat.IsComplete && now - seat.LastAsked >= s_silence);
        }
    }

    private void SetSilent(Seat seat, bool isSilent)
    {
        _silent += (isSilent ? 1 : 0) - (seat.IsSilent ? 1 : 0);
        seat.IsSilent = isSilent;
    }

    private void TakeBack(Seat seat)
    {
        while (seat.Given.TryDequeue(out int unit))
        {
            _isPending[unit] = false;
            _pending--;
            _returned.Enqueue(unit);
        }
    }

    private int[] Give(Seat seat, in SwarmRequest request)
    {
        int atOnce = (int)Math.Clamp(_unitsPerSecond * SecondsAtOnce, LeastAtOnce, MostAtOnce);
        int share = Math.Max(1, atOnce / Math.Max(1, Waiting));
        int most = Math.Min(Math.Min(request.Wanted, share - seat.Given.Count), atOnce - _pending);
        if (most <= 0)
        {
            return [];
        }
        var given = new List<int>(most);
        while (given.Count < most && _returned.TryDequeue(out int unit))
        {
            given.Add(unit);
        }
        while (given.Count < most && _next < Units)
        {
            given.Add(_next++);
        }
        // Given out before, and whoever has it is none that this one knows: the owner has time for it.
        foreach (int unit in request.Missing)
        {
            if (given.Count == most)
            {
                break;
            }
            if ((uint)unit < (uint)Units && !_isPending[unit] && !given.Contains(unit))
            {
                given.Add(unit);
            }
        }
        foreach (int unit in given)
        {
            _isPending[unit] = true;
            seat.Given.Enqueue(unit);
        }
        _pending += given.Count;
        return [.. given];
    }

    // Of two at random the one that has something, and then the one that fewer read from: nobody has many more readers than others.
    private IPEndPoint[] Introduce(Seat seat, int wanted, RelaySecurity demanded)
    {
        List<Seat> offering = _offering[(int)demanded];
        int most = Math.Min(Math.Min(wanted, SwarmAnswer.MostMembers), offering.Count - (seat.Port != 0 && seat.Speaks >= demanded ? 1 : 0));
        if (most <= 0)
        {
            return [];
        }
        var told = new List<Seat>(most);
        if (offering.Count <= 2 * most)
        {
            Seat[] all = [.. offering];
            _random.Shuffle(all);
            told.AddRange(all.Where(other => other != seat).Take(most));
        }
        for (int tries = 4 * most; told.Count < most && tries > 0; tries--)
        {
            Seat one = offering[_random.Next(offering.Count)];
            Seat two = offering[_random.Next(offering.Count)];
            Seat better = (one.Done != 0) != (two.Done != 0) && one.Readers < MostReaders && two.Readers < MostReaders ? (one.Done != 0 ? one : two) : one.Readers <= two.Readers ? one : two;
            if (better != seat && !told.Contains(better))
            {
                told.Add(better);
            }
        }
        told.ForEach(static other => other.Readers++);
        return [.. told.Select(static other => new IPEndPoint(other.Address, other.Port))];
    }

    private void Leave(Seat seat)
    {
        lock (_lock)
        {
            if (seat.IsGone)
            {
                return;
            }
            seat.IsGone = true;
            TakeBack(seat);
            SetSilent(seat, false);
            _complete -= seat.IsComplete ? 1 : 0;
            _seats.Remove(seat);
            Array.ForEach(_offering, offering => offering.Remove(seat));
        }
    }
}
