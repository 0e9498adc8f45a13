using System.Diagnostics;
using System.Net;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Simulation;

/// <summary>What is simulated.</summary>
/// <param name="Joiners">Joiners that start together.</param>
/// <param name="Units">Units of the checkpoint.</param>
/// <param name="UnitBytes">Bytes of each.</param>
/// <param name="OwnerBytesPerSecond">What the owner sends at most.</param>
/// <param name="JoinerBytesPerSecond">What a joiner sends, and receives, at most.</param>
/// <param name="HaveDelay">How long it takes until others know that a joiner has a unit.</param>
/// <param name="StartWithin">Over how long the joiners start.</param>
/// <param name="Seed">Of all random numbers.</param>
internal sealed record SwarmCase(int Joiners, int Units, long UnitBytes, double OwnerBytesPerSecond, double JoinerBytesPerSecond, TimeSpan HaveDelay, TimeSpan StartWithin, int Seed)
{
    /// <summary>No way is faster: the owner sends each byte once, a joiner receives each, and all that is received is sent by somebody.</summary>
    internal double LowerBoundSeconds
    {
        get
        {
            double bytes = Units * (double)UnitBytes;
            return Math.Max(bytes / Math.Min(OwnerBytesPerSecond, JoinerBytesPerSecond), Joiners * bytes / (OwnerBytesPerSecond + Joiners * JoinerBytesPerSecond));
        }
    }

    /// <summary>When the owner sends to all of them.</summary>
    internal double AloneSeconds => Joiners * (double)Units * UnitBytes / OwnerBytesPerSecond;
}

/// <summary>What came of it.</summary>
/// <param name="Seconds">From the first start to the last joiner's end, simulated.</param>
/// <param name="MedianSeconds">Half of the joiners were done by then.</param>
/// <param name="OwnerCopies">What the owner sent, in checkpoints.</param>
/// <param name="MostCopies">What the busiest joiner sent, in checkpoints.</param>
/// <param name="Questions">What the owner was asked.</param>
/// <param name="RoundMilliseconds">The time, real, that the owner's answers to one question of each joiner take.</param>
internal sealed record SwarmResult(double Seconds, double MedianSeconds, double OwnerCopies, double MostCopies, long Questions, double RoundMilliseconds);

/// <summary>
/// Joiners that start together behind one owner, by the very code that decides in a join (<see cref="Swarm"/>, <see cref="UnitBoard"/>, <see cref="SwarmAsker"/>);
/// the network is links that are shared evenly, in steps of time. The same case has the same result.
/// </summary>
internal sealed class SwarmSimulation
{
    private const int StepsPerUnit = 4;
    private const int SharingPasses = 3;
    private const double Least = 1;         // bytes a second; less is nothing

    private readonly SwarmCase _case;
    private readonly Swarm _swarm;
    private readonly Joiner[] _joiners;
    private readonly int[] _outgoing;           // flows of each source; the owner is the last
    private readonly long[] _sentUnits;
    private readonly double[] _upLeft;
    private readonly int[] _upFlows;
    private long _questions;
    private long _answerTicks;

    private sealed class Joiner
    {
        internal required UnitBoard Board { get; init; }

        internal required SwarmAsker Asker { get; init; }

        internal required TimeSpan Start { get; init; }

        internal Swarm.Seat? Seat { get; set; }

        internal Flow[] Flows { get; } = new Flow[SwarmAsker.MostRelays + 1];        // by relay; the owner is the last

        internal int Incoming { get; set; }

        internal double DownLeft { get; set; }

        internal int DownFlows { get; set; }

        internal int Readers { get; set; }

        internal TimeSpan Looked { get; set; }

        internal double DoneSeconds { get; set; } = double.NaN;
    }

    private struct Flow
    {
        internal int Source;        // joiner + 1; 0: no such relay
        internal int Known;         // of its log
        internal int Unit;
        internal bool IsBusy;
        internal double Left;
        internal double Rate;
        internal double More;       // of one pass
    }

    private SwarmSimulation(SwarmCase what)
    {
        _case = what;
        var random = new Random(what.Seed);
        _swarm = new Swarm(what.Units, new Random(random.Next()));
        int[] lengths = new int[what.Units];
        Array.Fill(lengths, (int)what.UnitBytes);
        _joiners = new Joiner[what.Joiners];
        for (int i = 0; i < _joiners.Length; i++)
        {
            var board = new UnitBoard(lengths, SwarmAsker.MostRelays, new Random(random.Next()));
            _joiners[i] = new Joiner { Board = board, Asker = new SwarmAsker(board, 0, 0), Start = what.StartWithin * random.NextDouble() };
        }
        _outgoing = new int[_joiners.Length + 1];
        _sentUnits = new long[_joiners.Length + 1];
        _upLeft = new double[_joiners.Length + 1];
        _upFlows = new int[_joiners.Length + 1];
    }

    internal static SwarmResult Run(SwarmCase what) => new SwarmSimulation(what).Run();

    private SwarmResult Run()
    {
        double step = _case.UnitBytes / Math.Max(_case.OwnerBytesPerSecond, _case.JoinerBytesPerSecond) / StepsPerUnit;
        int owner = _joiners.Length;
        int left = _joiners.Length;
        double now = 0;
        while (left != 0)
        {
            var time = TimeSpan.FromSeconds(now);
            for (int i = 0; i < _joiners.Length; i++)
            {
                Joiner joiner = _joiners[i];
                if (time < joiner.Start || !double.IsNaN(joiner.DoneSeconds))
                {
                    continue;
                }
                Ask(i, joiner, time);
                if (time - joiner.Looked >= _case.HaveDelay)
                {
                    joiner.Looked = time;
                    Look(joiner);
                }
                Begin(joiner, owner);
            }
            now += step;
            Share();
            for (int i = 0; i < _joiners.Length; i++)
            {
                Joiner joiner = _joiners[i];
                for (int f = 0; joiner.Incoming != 0 && f < joiner.Flows.Length; f++)
                {
                    ref Flow flow = ref joiner.Flows[f];
                    if (!flow.IsBusy)
                    {
                        continue;
                    }
                    int source = f == SwarmAsker.MostRelays ? owner : flow.Source - 1;
                    flow.Left -= flow.Rate * step;
                    if (flow.Left > 0)
                    {
                        continue;
                    }
                    flow.IsBusy = false;
                    joiner.Incoming--;
                    _outgoing[source]--;
                    _sentUnits[source]++;
                    joiner.Board.Complete(flow.Unit, offer: true);
                    if (joiner.Board.Done == _case.Units)
                    {
                        joiner.DoneSeconds = now;
                        left--;
                    }
                }
            }
        }
        double[] done = [.. _joiners.Select(joiner => joiner.DoneSeconds).Order()];
        double round = Stopwatch.GetElapsedTime(0, _answerTicks).TotalMilliseconds / _questions * _joiners.Length;
        return new SwarmResult(done[^1], done[done.Length / 2], _sentUnits[owner] / (double)_case.Units, _sentUnits.AsSpan(0, owner).ToArray().Max() / (double)_case.Units, _questions, round);
    }

    // As TCP does in time: what one end of a flow leaves is for the others of the other end. Three passes come within a few per cent of a fair share.
    private void Share()
    {
        int owner = _joiners.Length;
        for (int source = 0; source <= owner; source++)
        {
            _upLeft[source] = source == owner ? _case.OwnerBytesPerSecond : _case.JoinerBytesPerSecond;
            _upFlows[source] = _outgoing[source];
        }
        foreach (Joiner joiner in _joiners)
        {
            joiner.DownLeft = _case.JoinerBytesPerSecond;
            joiner.DownFlows = joiner.Incoming;
            for (int f = 0; joiner.Incoming != 0 && f < joiner.Flows.Length; f++)
            {
                joiner.Flows[f].Rate = 0;
            }
        }
        for (int pass = 0; pass < SharingPasses; pass++)
        {
            foreach (Joiner joiner in _joiners)
            {
                for (int f = 0; joiner.Incoming != 0 && f < joiner.Flows.Length; f++)
                {
                    ref Flow flow = ref joiner.Flows[f];
                    if (flow.IsBusy)
                    {
                        int source = f == SwarmAsker.MostRelays ? owner : flow.Source - 1;
                        flow.More = _upFlows[source] == 0 || joiner.DownFlows == 0 ? 0 : Math.Min(_upLeft[source] / _upFlows[source], joiner.DownLeft / joiner.DownFlows);
                    }
                }
            }
            Array.Clear(_upFlows);
            foreach (Joiner joiner in _joiners)
            {
                if (joiner.Incoming == 0)
                {
                    continue;
                }
                for (int f = 0; f < joiner.Flows.Length; f++)
                {
                    ref Flow flow = ref joiner.Flows[f];
                    if (flow.IsBusy)
                    {
                        flow.Rate += flow.More;
                        _upLeft[f == SwarmAsker.MostRelays ? owner : flow.Source - 1] -= flow.More;
                        joiner.DownLeft -= flow.More;
                    }
                }
            }
            foreach (Joiner joiner in _joiners)
            {
                joiner.DownFlows = 0;
                for (int f = 0; joiner.Incoming != 0 && f < joiner.Flows.Length; f++)
                {
                    int source = f == SwarmAsker.MostRelays ? owner : joiner.Flows[f].Source - 1;
                    if (joiner.Flows[f].IsBusy && _upLeft[source] > Least && joiner.DownLeft > Least)
                    {
                        joiner.DownFlows++;
                        _upFlows[source]++;
                    }
                }
            }
        }
    }

    private void Ask(int number, Joiner joiner, TimeSpan now)
    {
        joiner.Seat ??= _swarm.Enter(IPAddress.IPv6Loopback, now);
        if (joiner.Asker.Pause(now) > TimeSpan.Zero)
        {
            return;
        }
        int relays = joiner.Flows.Count(flow => flow.Source != 0);
        if (joiner.Asker.FindUseless(relays, now) is >= 0 and int useless && !joiner.Flows[useless].IsBusy)
        {
            joiner.Board.RemoveRelay(useless);
            _joiners[joiner.Flows[useless].Source - 1].Readers--;
            joiner.Flows[useless] = default;
            relays--;
        }
        SwarmRequest request = joiner.Asker.Make(number + 1, joiner.Readers, relays, isMeeting: false);
        long start = Stopwatch.GetTimestamp();
        SwarmAnswer answer = joiner.Seat.Ask(request, now);
        _answerTicks += Stopwatch.GetTimestamp() - start;
        _questions++;
        joiner.Asker.Take(answer, now);
        foreach (IPEndPoint member in answer.Members!)
        {
            if (!Array.Exists(joiner.Flows, flow => flow.Source == member.Port) && _joiners[member.Port - 1].Readers < Swarm.MostReaders && joiner.Board.AddRelay() is >= 0 and int relay)
            {
                joiner.Flows[relay] = new Flow { Source = member.Port };
                _joiners[member.Port - 1].Readers++;
            }
        }
    }

    private void Look(Joiner joiner)
    {
        for (int relay = 0; relay < SwarmAsker.MostRelays; relay++)
        {
            ref Flow flow = ref joiner.Flows[relay];
            if (flow.Source != 0)
            {
                ReadOnlyMemory<int> news = _joiners[flow.Source - 1].Board.LogFrom(flow.Known);
                joiner.Board.RelayHas(relay, news.Span);
                flow.Known += news.Length;
            }
        }
    }

    private void Begin(Joiner joiner, int owner)
    {
        for (int f = 0; f < joiner.Flows.Length; f++)
        {
            ref Flow flow = ref joiner.Flows[f];
            bool isOwner = f == SwarmAsker.MostRelays;
            if (!flow.IsBusy && (isOwner ? joiner.Board.TryTakeGiven(null, out int unit) : joiner.Board.TryTakeFrom(f, null, out unit)))
            {
                flow.Unit = unit;
                flow.Left += _case.UnitBytes;           // what the last step had left over counts
                flow.IsBusy = true;
                joiner.Incoming++;
                _outgoing[isOwner ? owner : flow.Source - 1]++;
            }
            else if (!flow.IsBusy)
            {
                flow.Left = 0;
            }
        }
    }
}
