namespace CheckpointEngine.Relay;

/// <summary>When a joiner asks its owner of the swarm, and for what.</summary>
/// <remarks>One thread, but for <see cref="Pause"/>, which any may ask. It knows no socket and no clock, as <see cref="Swarm"/>.</remarks>
internal sealed class SwarmAsker
{
    /// <summary>The most relays that a joiner reads from at a time.</summary>
    internal const int MostRelays = 8;

    // As many as fill a fast link while the next are asked for; the owner gives fewer.
    private const int MostPending = 128;

    // How long a relay is tried before another may be asked for in its place.
    private static readonly TimeSpan s_patience = TimeSpan.FromMilliseconds(500);

    private static readonly TimeSpan s_leastPause = TimeSpan.FromMilliseconds(5);

    private readonly UnitBoard _board;
    private readonly ulong _address;
    private readonly UInt128 _layout;
    private TimeSpan _asked = TimeSpan.MinValue;
    private TimeSpan _next;
    private TimeSpan _judged;
    private bool _knowsOthers;      // that the owner has told of, if there were any
    private int _enough = -1;       // units that are left of those given when more are asked for; -1: none were given

    /// <param name="board">What is here and what is missing.</param>
    /// <param name="address">An address of the checkpoint in the owner's memory.</param>
    /// <param name="layout">Which units they are.</param>
    internal SwarmAsker(UnitBoard board, ulong address, UInt128 layout)
    {
        _board = board;
        _address = address;
        _layout = layout;
    }

    /// <summary>How long to wait before the next question; zero when it is due.</summary>
    internal TimeSpan Pause(TimeSpan now)
    {
        TimeSpan due = _board.Pending <= _enough && _asked + s_leastPause < _next ? _asked + s_leastPause : _next;
        return due > now ? due - now : TimeSpan.Zero;
    }

    /// <summary>A relay to be left for another, since none of those that are read has anything that is missing here; -1 for none.</summary>
    /// <param name="relays">Relays that it reads from.</param>
    /// <param name="now">The time.</param>
    internal int FindUseless(int relays, TimeSpan now)
    {
        if (relays < MostRelays || now - _judged < s_patience || _board.FindWanted(1).Length == 0)
        {
            return -1;
        }
        _judged = now;
        return _board.FindLeastUsed();
    }

    /// <summary>The question.</summary>
    /// <param name="port">Where this joiner offers what it has; 0 for nowhere.</param>
    /// <param name="readers">How many read from it there.</param>
    /// <param name="relays">Relays that it reads from, or is about to.</param>
    /// <param name="isMeeting">Whether it is about to know what another has: what it lacks, that one may have.</param>
    internal SwarmRequest Make(int port, int readers, int relays, bool isMeeting)
    {
        int pending = _board.Pending;
        int[] missing = isMeeting || !_knowsOthers ? [] : _board.FindWanted(SwarmRequest.MostMissing);
        return new SwarmRequest(_address, _layout, _board.Units, port, readers, _board.MissingBytes == 0 ? 0 : MostRelays - relays,
            _board.MissingBytes == 0 ? 0 : Math.Max(0, MostPending - pending), pending, _board.Done, missing);
    }

    /// <summary>Takes the answer.</summary>
    internal void Take(in SwarmAnswer answer, TimeSpan now)
    {
        _board.Give(answer.Given);
        _asked = now;
        bool isAlone = answer is { Given.Length: 0, Members.Length: 0 } && !_knowsOthers;        // nobody else has what the owner has given out before
        _next = isAlone ? now : now + TimeSpan.FromMilliseconds(Math.Max(1, answer.AskAgainMs));
        _knowsOthers = true;
        _enough = answer.Given is { Length: > 0 } ? _board.Pending / 2 : -1;
    }
}
