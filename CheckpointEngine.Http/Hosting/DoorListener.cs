using System.Net;
using System.Net.Sockets;
using System.Threading.Channels;
using CheckpointEngine.Access;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;

namespace CheckpointEngine.Http.Hosting;

/// <summary>
/// Accepts connections for Kestrel and hands each over when it has said a whole line (over TLS and Unix sockets: a byte), or ends its side. Whoever connects and says nothing costs a
/// socket and a few microseconds, not a connection of a web server: a queue of thousands of them is gone before one who asks has waited long.
/// </summary>
/// <remarks>The connections that wait here have their places among those of the server (<see cref="ConnectionLimiter"/>), and give way first.</remarks>
internal sealed class DoorListener : IConnectionListener
{
    // At who has begun is looked again: there is no way to be told of more bytes behind those that are there.
    private const int Many = 16;
    private static readonly TimeSpan s_again = TimeSpan.FromMilliseconds(2);
    private static readonly TimeSpan s_againOfMany = TimeSpan.FromMilliseconds(20);

    private static readonly TimeSpan s_sweep = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan s_noDescriptor = TimeSpan.FromMilliseconds(20);

    // As long as Kestrel lets a connection wait for its next request.
    private static readonly TimeSpan s_silence = TimeSpan.FromSeconds(130);

    private readonly Socket _listen;
    private readonly ConnectionLimiter _limiter;
    private readonly bool _isTls;
    private readonly TimeSpan _headTimeout;
    private readonly SocketConnectionContextFactory _contexts;
    private readonly Channel<Caller> _heard = Channel.CreateUnbounded<Caller>();     // as many as the limiter lets in
    private readonly Lock _lock = new();
    private readonly LinkedList<Caller> _atDoor = new();
    private readonly LinkedList<Caller> _begun = new();       // the rest of those who wait: they have said a part
    private readonly Thread _door;
    private readonly Timer _timer;
    private volatile bool _isClosed;

    internal DoorListener(Socket listen, ConnectionLimiter limiter, bool isTls, TimeSpan headTimeout, SocketConnectionContextFactory contexts)
    {
        _listen = listen;
        _limiter = limiter;
        _isTls = isTls;
        _headTimeout = headTimeout;
        _contexts = contexts;
        EndPoint = listen.LocalEndPoint!;
        _timer = new Timer(static state => ((DoorListener)state!).LookAgain(), this, s_sweep, Timeout.InfiniteTimeSpan);
        _door = new Thread(AcceptAll) { IsBackground = true, Name = "checkpoint-engine door" };
        _door.Start();
    }

    /// <inheritdoc/>
    public EndPoint EndPoint { get; }

    /// <inheritdoc/>
    public async ValueTask<ConnectionContext?> AcceptAsync(CancellationToken cancellationToken = default)
    {
        while (await _heard.Reader.WaitToReadAsync(cancellationToken).ConfigureAwait(false))
        {
            while (_heard.Reader.TryRead(out Caller? caller))
            {
                if (caller.TryEnter(_contexts, out ConnectionContext? context))
                {
                    return context;
                }
            }
        }
        return null;
    }

    /// <inheritdoc/>
    public ValueTask UnbindAsync(CancellationToken cancellationToken = default)
    {
        Caller[] left;
        lock (_lock)
        {
            _isClosed = true;
            left = [.. _atDoor, .. _begun];
            _atDoor.Clear();
            _begun.Clear();
        }
        _listen.Dispose();
        _door.Join();
        _timer.Dispose();
        _heard.Writer.TryComplete();
        Array.ForEach(left, static caller => caller.Leave());
        while (_heard.Reader.TryRead(out Caller? caller))
        {
            caller.Leave();
        }
        return ValueTask.CompletedTask;
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await UnbindAsync().ConfigureAwait(false);
        _contexts.Dispose();
    }

    private void AcceptAll()
    {
        while (!_isClosed)
        {
            Socket socket;
            try
            {
                socket = _listen.Accept();
            }
            catch (SocketException refused)
            {
                if (!_isClosed && refused.SocketErrorCode != SocketError.ConnectionReset)
                {
                    Thread.Sleep(s_noDescriptor);       // no descriptor is left, or no memory: both come back
                }
                continue;
            }
            catch (ObjectDisposedException)
            {
                return;
            }
            Greet(new Caller(socket));
        }
    }

    private void Greet(Caller caller)
    {
        caller.Completed += OnWaited;
        if (!caller.TryTakePlace(_limiter))
        {
            caller.Leave();
            return;
        }
        bool isLate;
        lock (_lock)
        {
            isLate = _isClosed;
            if (!isLate)
            {
                _atDoor.AddLast(caller.Node);
            }
        }
        if (isLate)
        {
            caller.Leave();
            return;
        }
        Hear(caller);
    }

    // Whoever takes a caller out of its list goes on with it; two may hear the same.
    private void Hear(Caller caller)
    {
        while (true)
        {
            switch (caller.Hear(_isTls))
            {
                case Caller.Word.None when caller.BeginWait():
                    return;
                case Caller.Word.None when !caller.HasEnded():
                    continue;
                case Caller.Word.Part:
                    Move(caller, _begun);
                    return;
                case Caller.Word.Whole:
                    if (Move(caller, null))
                    {
                        caller.KeepPlace();
                        if (!_heard.Writer.TryWrite(caller))
                        {
                            caller.Leave();
                        }
                    }
                    return;
                default:
                    LeaveFromDoor(caller);
                    return;
            }
        }
    }

    private void OnWaited(object? sender, SocketAsyncEventArgs arguments)
    {
        var caller = (Caller)arguments;
        if (caller.HasEnded())
        {
            LeaveFromDoor(caller);
            return;
        }
        Hear(caller);
    }

    private void LeaveFromDoor(Caller caller)
    {
        if (Move(caller, null))
        {
            caller.Leave();
        }
    }

    // False when it is in no list any more: somebody else has it, or the door is closed.
    private bool Move(Caller caller, LinkedList<Caller>? to)
    {
        lock (_lock)
        {
            if (caller.Node.List is not { } from)
            {
                return false;
            }
            if (from == to)
            {
                return true;
            }
            from.Remove(caller.Node);
            if (to is not null)
            {
                to.AddLast(caller.Node);
                if (to.Count == 1)
                {
                    _timer.Change(s_again, Timeout.InfiniteTimeSpan);
                }
            }
            return true;
        }
    }

    private void LookAgain()
    {
        Caller[] begun;
        Caller[] late;
        lock (_lock)
        {
            if (_isClosed)
            {
                return;
            }
            begun = [.. _begun];
            long now = Environment.TickCount64;
            late =
            [
                .. _begun.Where(caller => now - caller.Came > _headTimeout.TotalMilliseconds),
                .. _atDoor.TakeWhile(caller => now - caller.Came > s_silence.TotalMilliseconds),
            ];
        }
        foreach (Caller caller in begun)
        {
            Hear(caller);
        }
        Array.ForEach(late, LeaveFromDoor);
        lock (_lock)
        {
            if (!_isClosed)
            {
                _timer.Change(_begun.Count == 0 ? s_sweep : _begun.Count < Many ? s_again : s_againOfMany, Timeout.InfiniteTimeSpan);
            }
        }
    }
}
