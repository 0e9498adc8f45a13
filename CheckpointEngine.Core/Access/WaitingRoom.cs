using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Access;

/// <summary>
/// The connections of a listener that have said nothing yet, or less than a word. Each costs a socket and a wait of the kernel's: no task, no timer of its own, and no exception at
/// its end, whether it goes, gives way to a newcomer or stays silent for too long. Whoever says a word, or ends its side behind a part of one, is handed over.
/// </summary>
/// <remarks>Any number of threads. The sockets inside are its own.</remarks>
internal sealed class WaitingRoom : IDisposable
{
    // At who has begun is looked again: there is no way to be told of more bytes behind those that are there. The more there are, the less often: thousands that never end their word
    // cost a few hundredths of a core, some microseconds at each look.
    private static readonly TimeSpan s_again = TimeSpan.FromMilliseconds(2);
    private static readonly TimeSpan s_aLook = TimeSpan.FromMicroseconds(60);

    private readonly ConnectionLimiter _limiter;
    private readonly int _wordBytes;
    private readonly TimeSpan _patience;
    private readonly TimeProvider _clock;
    private readonly Action<Socket, ConnectionSlot> _heard;
    private readonly ITimer _timer;
    private readonly Lock _lock = new();
    private readonly LinkedList<Guest> _silent = new();       // the longest first
    private readonly LinkedList<Guest> _begun = new();        // who has said a part
    private readonly ITimer _timerOfBegun;
    private bool _isClosed;

    /// <param name="limiter">The places of the listener's connections.</param>
    /// <param name="wordBytes">How many bytes are enough to go on with; over a Unix socket one is.</param>
    /// <param name="patience">How long they may take.</param>
    /// <param name="clock">What that is measured by.</param>
    /// <param name="heard">Gets a connection that has said something, and its place; called under a lock, so it returns at once. Not called any more after Dispose.</param>
    internal WaitingRoom(ConnectionLimiter limiter, int wordBytes, TimeSpan patience, TimeProvider clock, Action<Socket, ConnectionSlot> heard)
    {
        _limiter = limiter;
        _wordBytes = wordBytes;
        _patience = patience;
        _clock = clock;
        _heard = heard;
        _timer = clock.CreateTimer(static state => ((WaitingRoom)state!).CloseLate(), this, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
        _timerOfBegun = clock.CreateTimer(static state => ((WaitingRoom)state!).LookAgain(), this, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
    }

    /// <summary>Those that wait in it.</summary>
    internal int Count
    {
        get
        {
            lock (_lock)
            {
                return _silent.Count + _begun.Count;
            }
        }
    }

    /// <summary>Lets a connection in.</summary>
    /// <returns>False: there is no place, and the socket is still the caller's. Else it is the room's.</returns>
    internal bool TryEnter(Socket socket)
    {
        var guest = new Guest(this, socket, _clock.GetTimestamp());
        if (_limiter.TryEnter(AddressOf(socket), guest.GiveWay) is not { } slot)
        {
            guest.Dispose();
            return false;
        }
        bool isPending = false;
        lock (_lock)
        {
            guest.Slot = slot;
            if (!_isClosed && guest.State == GuestState.Silent)
            {
                _silent.AddLast(guest.Node);
                if (_silent.Count == 1)
                {
                    _timer.Change(_patience, Timeout.InfiniteTimeSpan);
                }
                isPending = socket.ReceiveAsync(guest);
            }
        }
        if (!isPending)
        {
            Hear(guest);
        }
        return true;
    }

    /// <summary>Closes all that wait.</summary>
    public void Dispose()
    {
        Guest[] left;
        lock (_lock)
        {
            if (_isClosed)
            {
                return;
            }
            _isClosed = true;
            left = [.. _silent, .. _begun];
            Array.ForEach(left, Take);
        }
        _timer.Dispose();
        _timerOfBegun.Dispose();
        Array.ForEach(left, static guest => guest.Close());
    }

    // The wait of a guest is over (by a byte, by the peer's end, or because the socket was closed), or it is its turn among those who have begun.
    private void Hear(Guest guest)
    {
        bool isHeard = false;
        lock (_lock)
        {
            switch (guest.State == GuestState.Silent && guest.Node.List is not null ? guest.Hear(_wordBytes) : Word.None)
            {
                case Word.Whole:
                    guest.Node.List!.Remove(guest.Node);
                    guest.State = GuestState.Heard;
                    _heard(guest.Socket, guest.Slot!);
                    isHeard = true;
                    break;
                case Word.Part:
                    if (guest.Node.List == _silent)
                    {
                        _silent.Remove(guest.Node);
                        _begun.AddLast(guest.Node);
                        if (_begun.Count == 1)
                        {
                            _timerOfBegun.Change(s_again, Timeout.InfiniteTimeSpan);
                        }
                    }
                    return;
                default:
                    Take(guest);
                    break;
            }
        }
        if (isHeard)
        {
            guest.Dispose();
        }
        else
        {
            guest.Close();
        }
    }

    private void LookAgain()
    {
        Guest[] begun;
        lock (_lock)
        {
            begun = [.. _begun];
        }
        foreach (Guest guest in begun)
        {
            if (_clock.GetElapsedTime(guest.Came) < _patience)
            {
                Hear(guest);
            }
            else
            {
                GiveWay(guest);
            }
        }
        lock (_lock)
        {
            if (!_isClosed && _begun.Count != 0)
            {
                _timerOfBegun.Change(TimeSpan.FromTicks(Math.Max(s_again.Ticks, _begun.Count * s_aLook.Ticks)), Timeout.InfiniteTimeSpan);
            }
        }
    }

    // Somebody else wants the place. Of who was handed over the socket is closed, which its new owner finds out.
    private void GiveWay(Guest guest)
    {
        bool isHeard;
        lock (_lock)
        {
            isHeard = guest.State == GuestState.Heard;
            if (!isHeard)
            {
                Take(guest);
            }
        }
        if (isHeard)
        {
            guest.Socket.Dispose();
        }
        else
        {
            guest.Close();
        }
    }

    private void CloseLate()
    {
        var late = new List<Guest>();
        lock (_lock)
        {
            while (_silent.First?.Value is { } longest)
            {
                TimeSpan left = _patience - _clock.GetElapsedTime(longest.Came);
                if (left > TimeSpan.Zero)
                {
                    if (!_isClosed)
                    {
                        _timer.Change(left + TimeSpan.FromMilliseconds(1), Timeout.InfiniteTimeSpan);
                    }
                    break;
                }
                Take(longest);
                late.Add(longest);
            }
        }
        late.ForEach(static guest => guest.Close());
    }

    private void Take(Guest guest)
    {
        guest.State = GuestState.Gone;
        guest.Node.List?.Remove(guest.Node);
    }

    private static IPAddress? AddressOf(Socket socket)
    {
        try
        {
            return (socket.RemoteEndPoint as IPEndPoint)?.Address;
        }
        catch (SocketException)
        {
            return null;        // gone already, which is heard next
        }
    }

    private enum Word
    {
        None,
        Part,
        Whole,
    }

    private enum GuestState
    {
        Silent,
        Heard,
        Gone,
    }

    /// <summary>One of them; its state is changed under the room's lock.</summary>
    private sealed class Guest : SocketAsyncEventArgs
    {
        private readonly WaitingRoom _room;

        internal Guest(WaitingRoom room, Socket socket, long came) : base(true)      // no execution context goes with it
        {
            _room = room;
            Socket = socket;
            Came = came;
            Node = new LinkedListNode<Guest>(this);
            SetBuffer(Memory<byte>.Empty);      // told of the first byte, which stays where it is
        }

        internal Socket Socket { get; }

        internal long Came { get; }

        internal LinkedListNode<Guest> Node { get; }

        internal GuestState State { get; set; }

        internal ConnectionSlot? Slot { get; set; }

        internal void GiveWay() => _room.GiveWay(this);

        internal Word Hear(int wordBytes)
        {
            try
            {
                return SocketError != SocketError.Success || Socket.Available is not (> 0 and int available) ? Word.None
                    : available >= wordBytes || Socket.ProtocolType != ProtocolType.Tcp || SocketTools.HasPeerEnded(Socket) ? Word.Whole : Word.Part;
            }
            catch (SocketException)
            {
                return Word.None;
            }
        }

        internal void Close()
        {
            Socket.Dispose();
            Slot?.Dispose();
            Dispose();
        }

        protected override void OnCompleted(SocketAsyncEventArgs e) => _room.Hear(this);
    }
}
