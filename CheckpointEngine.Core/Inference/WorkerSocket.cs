using System.Diagnostics;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Inference;

/// <summary>How far the exchange of a message with a worker is.</summary>
internal enum WorkerState : byte
{
    Idle,
    Sending,
    Waiting,
    Answered,
    Failed,
    Gone,
}

/// <summary>The engine's end of one worker's connection: what is sent, what comes, and whether anyone is there.</summary>
/// <remarks>One thread at a time. No call waits.</remarks>
internal sealed unsafe class WorkerSocket(string uuid, string address) : IDisposable
{
    private const long MaxFrameBytes = 16 << 20;

    private void* _socket;
    private void* _monitor;
    private string? _error;

    /// <summary>Its device.</summary>
    internal string Uuid { get; } = uuid;

    /// <summary>Where it connects to.</summary>
    internal string Address { get; } = address;

    internal WorkerState State { get; set; }

    /// <summary>The message that only this worker gets; empty: it gets the one of all.</summary>
    internal ReadOnlyMemory<byte> Own { get; set; }

    /// <summary>When the newest message was to be sent.</summary>
    internal long PostedAt { get; set; }

    /// <summary>Seconds from then to the answer.</summary>
    internal double AnswerSeconds { get; private set; }

    /// <summary>Connections at this moment.</summary>
    internal int Connections { get; private set; }

    internal bool WasConnected { get; private set; }

    /// <summary>Listens at <see cref="Address"/>.</summary>
    /// <param name="context">libzmq's.</param>
    /// <param name="monitorName">A name within the context.</param>
    /// <param name="admits">Which users of the host may connect; null: everyone.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Native"/>.</exception>
    internal void Open(void* context, string monitorName, IReadOnlyList<uint>? admits)
    {
        _socket = LibZmq.zmq_socket(context, LibZmq.ZMQ_REQ);
        _monitor = LibZmq.zmq_socket(context, LibZmq.ZMQ_PAIR);
        if (_socket == null || _monitor == null)
        {
            Throw("zmq_socket", Address);
        }
        int none = 0;
        int yes = 1;
        long most = MaxFrameBytes;
        _ = LibZmq.zmq_setsockopt(_socket, LibZmq.ZMQ_LINGER, &none, sizeof(int));
        _ = LibZmq.zmq_setsockopt(_monitor, LibZmq.ZMQ_LINGER, &none, sizeof(int));
        _ = LibZmq.zmq_setsockopt(_socket, LibZmq.ZMQ_MAXMSGSIZE, &most, sizeof(long));
        // Strict REQ sends nothing before the answer to the last message: a worker that hangs could not be told to stop.
        _ = LibZmq.zmq_setsockopt(_socket, LibZmq.ZMQ_REQ_RELAXED, &yes, sizeof(int));
        foreach (uint user in admits ?? [])
        {
            uint id = user;
            if (LibZmq.zmq_setsockopt(_socket, LibZmq.ZMQ_IPC_FILTER_UID, &id, sizeof(uint)) != 0)
            {
                break;      // a build without credentials of peers: anyone of this network namespace can connect, as to upstream
            }
        }
        fixed (byte* monitor = Encoding.UTF8.GetBytes(monitorName + '\0'))
        {
            if (LibZmq.zmq_socket_monitor(_socket, monitor, LibZmq.ZMQ_EVENT_HANDSHAKE_SUCCEEDED | LibZmq.ZMQ_EVENT_DISCONNECTED) != 0
                || LibZmq.zmq_connect(_monitor, monitor) != 0)
            {
                Throw("zmq_socket_monitor", Address);
            }
        }
        fixed (byte* bound = Encoding.UTF8.GetBytes(Address + '\0'))
        {
            if (LibZmq.zmq_bind(_socket, bound) != 0)
            {
                Throw("zmq_bind", Address);
            }
        }
    }

    /// <summary>How long a message may take to leave when the socket is closed.</summary>
    internal void Linger(int milliseconds) => _ = LibZmq.zmq_setsockopt(_socket, LibZmq.ZMQ_LINGER, &milliseconds, sizeof(int));

    /// <summary>What is waited for: that the message can be sent or the answer is there, and a change of the connection.</summary>
    /// <param name="items">Two.</param>
    internal void FillPollItems(Span<LibZmq.PollItem> items)
    {
        items[0] = new LibZmq.PollItem { socket = _socket, fd = -1, events = State == WorkerState.Sending ? LibZmq.ZMQ_POLLOUT : LibZmq.ZMQ_POLLIN };
        items[1] = new LibZmq.PollItem { socket = _monitor, fd = -1, events = LibZmq.ZMQ_POLLIN };
    }

    /// <summary>Sends its own message, else <paramref name="common"/>, if it can be sent now.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Native"/>.</exception>
    internal void TrySend(ReadOnlyMemory<byte> common)
    {
        ReadOnlyMemory<byte> message = Own.Length != 0 ? Own : common;
        fixed (byte* bytes = message.Span)
        {
            if (LibZmq.zmq_send(_socket, bytes, (nuint)message.Length, LibZmq.ZMQ_DONTWAIT) >= 0)
            {
                State = WorkerState.Waiting;
                Own = default;
            }
            else if (LibZmq.zmq_errno() is not (Libc.EAGAIN or Libc.EINTR))
            {
                Throw("zmq_send", Address);
            }
        }
    }

    /// <summary>Takes the answer if it is there.</summary>
    /// <param name="room">For a traceback; what is longer is cut.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Native"/>.</exception>
    internal void TryReceive(byte[] room)
    {
        fixed (byte* buffer = room)
        {
            int length = LibZmq.zmq_recv(_socket, buffer, (nuint)room.Length, LibZmq.ZMQ_DONTWAIT);
            if (length < 0)
            {
                if (LibZmq.zmq_errno() is not (Libc.EAGAIN or Libc.EINTR))
                {
                    Throw("zmq_recv", Address);
                }
                return;
            }
            AnswerSeconds = Stopwatch.GetElapsedTime(PostedAt).TotalSeconds;
            State = length == 0 ? WorkerState.Answered : WorkerState.Failed;
            _error = length == 0 ? null : LastLines(Encoding.UTF8.GetString(room.AsSpan(0, Math.Min(length, room.Length))));
        }
    }

    /// <summary>Counts connections that came and went.</summary>
    /// <returns>Whether the last one ended.</returns>
    internal bool ReadMonitor()
    {
        const int EventBytes = 6;       // of the first of two frames; the second is the address
        byte* frame = stackalloc byte[EventBytes];
        byte* rest = stackalloc byte[1];
        bool wasCut = false;
        while (LibZmq.zmq_recv(_monitor, frame, EventBytes, LibZmq.ZMQ_DONTWAIT) >= EventBytes)
        {
            _ = LibZmq.zmq_recv(_monitor, rest, 1, LibZmq.ZMQ_DONTWAIT);
            bool connected = MemoryMarshal.Read<ushort>(new ReadOnlySpan<byte>(frame, sizeof(ushort))) == LibZmq.ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
            Connections = Math.Max(0, Connections + (connected ? 1 : -1));
            WasConnected |= connected;
            wasCut |= WasConnected && Connections == 0;
        }
        return wasCut;
    }

    /// <summary>What is wrong with it, in words; null when nothing is.</summary>
    internal string? DescribeFailure() => State switch
    {
        WorkerState.Failed => _error,
        WorkerState.Gone => "its connection is gone",
        WorkerState.Sending => $"it has not connected to {Address}",
        WorkerState.Waiting => "it has not answered",
        _ => null,
    };

    public void Dispose()
    {
        if (_socket != null)
        {
            _ = LibZmq.zmq_socket_monitor(_socket, null, 0);
            _ = LibZmq.zmq_close(_socket);
            _socket = null;
        }
        if (_monitor != null)
        {
            _ = LibZmq.zmq_close(_monitor);
            _monitor = null;
        }
    }

    [DoesNotReturn]
    internal static void Throw(string call, string subject)
    {
        int errno = LibZmq.zmq_errno();
        throw new CheckpointEngineException(CheckpointError.Native, $"{call} {subject}: {LibZmq.Describe(errno)} (errno {errno})", errno);
    }

    // Of a traceback the end says what went wrong.
    private static string LastLines(string text)
    {
        const int MaxChars = 2000;
        text = text.Trim();
        return MessageText.Clean((text.Length > MaxChars ? "…" + text[^MaxChars..] : text).ReplaceLineEndings(" | "), MaxChars + 1);
    }
}
