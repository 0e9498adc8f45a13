using System.Diagnostics.CodeAnalysis;
using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;

namespace CheckpointEngine.Http.Hosting;

/// <summary>A connection before Kestrel has it: it waits at the door until it has said something that can be answered.</summary>
/// <remarks>Any number of threads. Owns its socket until a context takes it over.</remarks>
internal sealed class Caller : SocketAsyncEventArgs
{
    private const int MostPeekedBytes = 4096;

    // linux/tcp.h: the option, and the state that tcp_info begins with once the peer has ended its side.
    private const int TcpInfo = 11;
    private const byte CloseWait = 8;

    private readonly Lock _lock = new();
    private readonly Socket _socket;
    private ConnectionSlot? _slot;
    private ConnectionContext? _context;
    private bool _isGone;
    private bool _hasAsked;
    private int _heardBytes;

    internal Caller(Socket socket) : base(true)       // no execution context goes with it
    {
        _socket = socket;
        Node = new LinkedListNode<Caller>(this);
        SetBuffer(Memory<byte>.Empty);      // told of the first byte, which stays where it is
    }

    internal enum Word
    {
        None,
        Part,
        Whole,
        Gone,
    }

    /// <summary>Among those at the door; under the listener's lock.</summary>
    internal LinkedListNode<Caller> Node { get; }

    /// <summary>When it came, in milliseconds since the system's start.</summary>
    internal long Came { get; } = Environment.TickCount64;

    /// <summary>Takes a place among those of the server.</summary>
    /// <returns>False: there is none.</returns>
    internal bool TryTakePlace(ConnectionLimiter limiter)
    {
        ConnectionSlot? slot = limiter.TryEnter((RemoteAddress() as IPEndPoint)?.Address, Leave);
        lock (_lock)
        {
            _slot = slot;
            return slot is not null;
        }
    }

    /// <summary>What it has said so far.</summary>
    /// <param name="isTls">Whether TLS is spoken here: then any byte is work for who speaks it.</param>
    internal Word Hear(bool isTls)
    {
        lock (_lock)
        {
            if (_isGone || _context is not null)
            {
                return Word.Gone;
            }
            try
            {
                int available = _socket.Available;
                if (available == 0)
                {
                    return Word.None;
                }
                if (isTls || available >= MostPeekedBytes || _socket.ProtocolType != ProtocolType.Tcp)
                {
                    return Word.Whole;
                }
                if (available == _heardBytes)
                {
                    return HasPeerEnded() ? Word.Whole : Word.Part;       // the web server has an answer to half a request as well
                }
                Span<byte> heard = stackalloc byte[MostPeekedBytes];
                heard = heard[.._socket.Receive(heard[..available], SocketFlags.Peek)];
                _heardBytes = heard.Length;
                bool isRequest = char.IsAsciiLetterUpper((char)heard[0]);
                _hasAsked = isRequest && heard.IndexOf("\r\n\r\n"u8) >= 0;
                // A whole line, or something that never will be one of HTTP's and is answered at once.
                return !isRequest || heard.Contains((byte)'\n') ? Word.Whole : Word.Part;
            }
            catch (SocketException)
            {
                return Word.Gone;
            }
        }
    }

    /// <summary>Waits for the first byte or the end; <see cref="SocketAsyncEventArgs.Completed"/> tells of it.</summary>
    /// <returns>False: either is there already.</returns>
    internal bool BeginWait()
    {
        lock (_lock)
        {
            return !_isGone && _socket.ReceiveAsync(this);
        }
    }

    /// <summary>Whether, after a wait, the end is all that came.</summary>
    internal bool HasEnded()
    {
        lock (_lock)
        {
            try
            {
                return _isGone || _context is not null || SocketError != SocketError.Success || _socket.Available == 0;
            }
            catch (SocketException)
            {
                return true;
            }
        }
    }

    /// <summary>Who has said all of a request's head waits for nobody but this server, and gives way to nobody until the request is answered.</summary>
    internal void KeepPlace()
    {
        if (_hasAsked)
        {
            _slot!.BeginUse();
        }
    }

    /// <summary>Makes it a connection of Kestrel's.</summary>
    /// <returns>False: it has gone meanwhile.</returns>
    internal bool TryEnter(SocketConnectionContextFactory contexts, [NotNullWhen(true)] out ConnectionContext? context)
    {
        lock (_lock)
        {
            context = null;
            if (_isGone)
            {
                return false;
            }
            try
            {
                if (_socket.ProtocolType == ProtocolType.Tcp)
                {
                    _socket.NoDelay = true;
                }
                context = _context = contexts.Create(_socket);
            }
            catch (SocketException)
            {
                _isGone = true;
                _socket.Dispose();
                _slot!.Dispose();
                return false;
            }
            context.Features.Set(_slot);
            if (_hasAsked)
            {
                context.Features.Set(new KeptPlace(_slot!));
            }
            Dispose();      // the wait is over; the socket is the context's
            return true;
        }
    }

    /// <summary>Closes it, wherever it is, and gives its place back.</summary>
    internal void Leave()
    {
        ConnectionContext? context;
        lock (_lock)
        {
            context = _context;
            if (context is null && !_isGone)
            {
                _isGone = true;
                _socket.Dispose();
                Dispose();
            }
        }
        if (context is not null)
        {
            context.Abort();
        }
        else
        {
            _slot?.Dispose();
        }
    }

    // Behind bytes that are not read the end cannot be seen by reading.
    private bool HasPeerEnded()
    {
        byte state = 0;
        return _socket.GetRawSocketOption((int)SocketOptionLevel.Tcp, TcpInfo, new Span<byte>(ref state)) == 1 && state == CloseWait;
    }

    private EndPoint? RemoteAddress()
    {
        try
        {
            return _socket.RemoteEndPoint;
        }
        catch (SocketException)
        {
            return null;        // gone already, which is heard next
        }
    }
}
