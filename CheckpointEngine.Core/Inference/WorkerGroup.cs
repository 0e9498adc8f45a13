using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Inference;

/// <summary>How a wait for workers ended.</summary>
internal enum WorkerWait
{
    /// <summary>Every worker has answered that it is done.</summary>
    Answered,

    /// <summary>At least one has answered with an error; the others have answered, too, or had a moment to.</summary>
    Failed,

    /// <summary>At least one is gone without an answer.</summary>
    Gone,

    /// <summary>At least one has not answered in time.</summary>
    Late,

    /// <summary>The server's own answer came first.</summary>
    ServerEnded,
}

/// <summary>The engine's end of the worker protocol: a socket for each worker, each of which gets the same messages and answers them.</summary>
/// <remarks>
/// One thread at a time, which sends and waits for all. Every call is bounded in time. Dispose ends it whatever state it is in, within
/// <see cref="AbortLingerMilliseconds"/>.
/// </remarks>
internal sealed unsafe class WorkerGroup : IDisposable
{
    // How long a message that tells workers to stop may take to leave; nothing else lingers.
    private const int AbortLingerMilliseconds = 1000;

    // Cancellation and the server's answer are looked at this often while nothing comes from workers.
    private const int SliceMilliseconds = 20;

    // Once one has failed the others may still answer, and are told to stop whether they have or not.
    private static readonly TimeSpan s_graceForOthers = TimeSpan.FromSeconds(1);

    // Answers are empty, or a traceback.
    private const int MaxAnswerBytes = 64 << 10;
    private const long MaxFrameBytes = 16 << 20;

    private static ulong s_updates = BitConverter.ToUInt32(RandomNumberGenerator.GetBytes(4));

    private readonly Worker[] _workers;
    private readonly LibZmq.PollItem[] _items;
    private readonly byte[] _answer = new byte[MaxAnswerBytes];
    private ReadOnlyMemory<byte> _message;
    private void* _context;

    /// <summary>Listens for one worker of each device.</summary>
    /// <param name="uuids">The devices.</param>
    /// <param name="admits">Which users of the host may be a worker; null: everyone.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: there is no libzmq. <see cref="CheckpointError.Native"/>.</exception>
    internal WorkerGroup(IReadOnlyList<string> uuids, IReadOnlyList<uint>? admits = null)
    {
        if (!LibZmq.TryLoad(out string? reason))
        {
            ThrowHelper.Throw(CheckpointError.NotSupported, $"update: {reason}");
        }
        _workers = new Worker[uuids.Count];
        _items = new LibZmq.PollItem[2 * uuids.Count];
        _context = LibZmq.zmq_ctx_new();
        // Other processes of this host and other updates of this one have other names, whatever was left open before.
        string counter = $"{Environment.ProcessId}{Interlocked.Increment(ref s_updates)}";
        try
        {
            for (int i = 0; i < _workers.Length; i++)
            {
                _workers[i] = new Worker(uuids[i], $"ipc://@checkpoint-engine-{uuids[i]}-{counter}.sock");
                Open(_workers[i], $"inproc://monitor-{i}", admits);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Number of workers.</summary>
    internal int Count => _workers.Length;

    /// <summary>A worker's device.</summary>
    internal string Uuid(int worker) => _workers[worker].Uuid;

    /// <summary>Where a worker connects to.</summary>
    internal string Address(int worker) => _workers[worker].Address;

    /// <summary>Seconds from the newest message to a worker's answer.</summary>
    internal double AnswerSeconds(int worker) => _workers[worker].AnswerSeconds;

    /// <summary>Whether a worker's connection is gone.</summary>
    internal bool IsGone(int worker) => _workers[worker].State == State.Gone;

    /// <summary>Sends every worker that is still there a message, now or as soon as it connects; then <see cref="Wait"/> for the answers.</summary>
    /// <param name="message">Stays as it is until the wait has ended.</param>
    internal void Post(ReadOnlyMemory<byte> message)
    {
        _message = message;
        long now = Stopwatch.GetTimestamp();
        foreach (Worker worker in _workers)
        {
            if (worker.State != State.Gone)
            {
                worker.State = State.Sending;
                worker.PostedAt = now;
                TrySend(worker);
            }
        }
    }

    /// <summary>Sends each worker a message of its own; otherwise as <see cref="Post(ReadOnlyMemory{byte})"/>.</summary>
    internal void PostEach(IReadOnlyList<ReadOnlyMemory<byte>> messages)
    {
        Debug.Assert(messages.Count == _workers.Length);
        long now = Stopwatch.GetTimestamp();
        for (int i = 0; i < _workers.Length; i++)
        {
            _workers[i].Own = messages[i];
            _workers[i].State = State.Sending;
            _workers[i].PostedAt = now;
            TrySend(_workers[i]);
        }
    }

    /// <summary>Waits until every worker has answered, or the first reason not to wait any longer.</summary>
    /// <param name="timeout">For all of them.</param>
    /// <param name="server">The server's answer, which ends the wait.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    internal WorkerWait Wait(TimeSpan timeout, Task server, CancellationToken cancellationToken)
    {
        long start = Stopwatch.GetTimestamp();
        long failed = 0;
        while (true)
        {
            cancellationToken.ThrowIfCancellationRequested();
            bool serverEnded = server.IsCompleted;      // looked at before the sockets: what a worker answered before the server did is seen first
            int open = Pump(serverEnded ? 0 : SliceMilliseconds);
            if (open == 0)
            {
                return Has(State.Failed) ? WorkerWait.Failed : Has(State.Gone) ? WorkerWait.Gone : WorkerWait.Answered;
            }
            if (serverEnded)
            {
                return Has(State.Failed) ? WorkerWait.Failed : WorkerWait.ServerEnded;
            }
            if (failed == 0 && (Has(State.Failed) || Has(State.Gone)))
            {
                failed = Stopwatch.GetTimestamp();
            }
            if (Stopwatch.GetElapsedTime(start) >= timeout || (failed != 0 && Stopwatch.GetElapsedTime(failed) >= s_graceForOthers))
            {
                return Has(State.Failed) ? WorkerWait.Failed : Has(State.Gone) ? WorkerWait.Gone : WorkerWait.Late;
            }
        }
    }

    /// <summary>What is wrong with which worker, in words.</summary>
    internal string DescribeFailure()
    {
        var text = new StringBuilder();
        foreach (Worker worker in _workers)
        {
            string? what = worker.State switch
            {
                State.Failed => worker.Error,
                State.Gone => "its connection is gone",
                State.Sending => $"it has not connected to {worker.Address}",
                State.Waiting => "it has not answered",
                _ => null,
            };
            if (what is not null && text.Length < MaxAnswerBytes)
            {
                text.Append(text.Length == 0 ? "" : "; ").Append("worker ").Append(worker.Uuid).Append(": ").Append(what);
            }
        }
        return text.ToString();
    }

    /// <summary>Whether no worker has ever connected.</summary>
    internal bool NobodyConnected => Array.TrueForAll(_workers, static worker => !worker.WasConnected);

    /// <summary>
    /// Tells every worker to raise and stop: those that are at work read it afterwards, those that are still to connect when they do. Who is not told would
    /// wait for ever, and its server with it.
    /// </summary>
    /// <param name="text">What they raise.</param>
    /// <param name="server">Its answer ends the wait: all of them have stopped.</param>
    /// <param name="patience">How long to wait for it.</param>
    internal void Abort(string text, Task server, TimeSpan patience)
    {
        var message = new System.Buffers.ArrayBufferWriter<byte>();
        UpdateMessages.WriteException(message, text);
        int linger = AbortLingerMilliseconds;
        foreach (Worker worker in _workers)
        {
            _ = LibZmq.zmq_setsockopt(worker.Socket, LibZmq.ZMQ_LINGER, &linger, sizeof(int));
            worker.Own = default;
        }
        long start = Stopwatch.GetTimestamp();
        try
        {
            Post(message.WrittenMemory);
            while (!server.IsCompleted && Stopwatch.GetElapsedTime(start) < patience)
            {
                int open = Pump(SliceMilliseconds);
                if (open == 0)
                {
                    // Whoever answers has not stopped: it was at another step, and waits for the next word.
                    Post(message.WrittenMemory);
                    Thread.Sleep(Has(State.Sending) || Has(State.Waiting) ? 0 : SliceMilliseconds);
                }
            }
        }
        catch (CheckpointEngineException)
        {
            // It was to be ended, and has.
        }
    }

    public void Dispose()
    {
        foreach (Worker? worker in _workers)
        {
            if (worker is null)
            {
                continue;
            }
            if (worker.Socket != null)
            {
                _ = LibZmq.zmq_socket_monitor(worker.Socket, null, 0);
                _ = LibZmq.zmq_close(worker.Socket);
                worker.Socket = null;
            }
            if (worker.Monitor != null)
            {
                _ = LibZmq.zmq_close(worker.Monitor);
                worker.Monitor = null;
            }
        }
        if (_context != null)
        {
            while (LibZmq.zmq_ctx_term(_context) != 0 && LibZmq.zmq_errno() == Libc.EINTR)
            {
            }
            _context = null;
        }
    }

    private void Open(Worker worker, string monitorName, IReadOnlyList<uint>? admits)
    {
        worker.Socket = LibZmq.zmq_socket(_context, LibZmq.ZMQ_REQ);
        worker.Monitor = LibZmq.zmq_socket(_context, LibZmq.ZMQ_PAIR);
        if (worker.Socket == null || worker.Monitor == null)
        {
            Throw("zmq_socket", worker.Address);
        }
        int none = 0;
        int yes = 1;
        long most = MaxFrameBytes;
        _ = LibZmq.zmq_setsockopt(worker.Socket, LibZmq.ZMQ_LINGER, &none, sizeof(int));
        _ = LibZmq.zmq_setsockopt(worker.Monitor, LibZmq.ZMQ_LINGER, &none, sizeof(int));
        _ = LibZmq.zmq_setsockopt(worker.Socket, LibZmq.ZMQ_MAXMSGSIZE, &most, sizeof(long));
        // Strict REQ sends nothing before the answer to the last message: a worker that hangs could not be told to stop.
        _ = LibZmq.zmq_setsockopt(worker.Socket, LibZmq.ZMQ_REQ_RELAXED, &yes, sizeof(int));
        foreach (uint user in admits ?? [])
        {
            uint id = user;
            if (LibZmq.zmq_setsockopt(worker.Socket, LibZmq.ZMQ_IPC_FILTER_UID, &id, sizeof(uint)) != 0)
            {
                break;      // a build without credentials of peers: anyone of this network namespace can connect, as to upstream
            }
        }
        fixed (byte* monitor = Encoding.UTF8.GetBytes(monitorName + '\0'))
        {
            if (LibZmq.zmq_socket_monitor(worker.Socket, monitor, LibZmq.ZMQ_EVENT_HANDSHAKE_SUCCEEDED | LibZmq.ZMQ_EVENT_DISCONNECTED) != 0
                || LibZmq.zmq_connect(worker.Monitor, monitor) != 0)
            {
                Throw("zmq_socket_monitor", worker.Address);
            }
        }
        fixed (byte* address = Encoding.UTF8.GetBytes(worker.Address + '\0'))
        {
            if (LibZmq.zmq_bind(worker.Socket, address) != 0)
            {
                Throw("zmq_bind", worker.Address);
            }
        }
    }

    private static void Throw(string call, string subject)
    {
        int errno = LibZmq.zmq_errno();
        throw new CheckpointEngineException(CheckpointError.Native, $"{call} {subject}: {LibZmq.Describe(errno)} (errno {errno})", errno);
    }

    private bool Has(State state)
    {
        foreach (Worker worker in _workers)
        {
            if (worker.State == state)
            {
                return true;
            }
        }
        return false;
    }

    // One round: what can be sent is sent, what has come is taken. Gives how many workers still owe an answer.
    private int Pump(int timeoutMilliseconds)
    {
        int open = Collect();
        if (open == 0)
        {
            return 0;
        }
        int count = 0;
        foreach (Worker worker in _workers)
        {
            if (worker.State is State.Sending or State.Waiting)
            {
                _items[count++] = new LibZmq.PollItem { socket = worker.Socket, fd = -1, events = worker.State == State.Sending ? LibZmq.ZMQ_POLLOUT : LibZmq.ZMQ_POLLIN };
                _items[count++] = new LibZmq.PollItem { socket = worker.Monitor, fd = -1, events = LibZmq.ZMQ_POLLIN };
            }
        }
        fixed (LibZmq.PollItem* items = _items)
        {
            if (LibZmq.zmq_poll(items, count, timeoutMilliseconds) < 0 && LibZmq.zmq_errno() != Libc.EINTR)
            {
                Throw("zmq_poll", "workers");
            }
        }
        return Collect();
    }

    private int Collect()
    {
        int open = 0;
        foreach (Worker worker in _workers)
        {
            if (worker.State is State.Sending or State.Waiting)
            {
                // The monitor first: an answer that came before its sender went is still found in the socket.
                bool wasCut = ReadMonitor(worker);
                if (worker.State == State.Sending)
                {
                    TrySend(worker);
                }
                if (worker.State == State.Waiting)
                {
                    TryReceive(worker);
                }
                // Who comes back does not know the message that it was sent before.
                if (worker.State is State.Sending or State.Waiting && (worker is { WasConnected: true, Connections: 0 } || (wasCut && worker.State == State.Waiting)))
                {
                    worker.State = State.Gone;
                }
            }
            open += worker.State is State.Sending or State.Waiting ? 1 : 0;
        }
        return open;
    }

    private void TrySend(Worker worker)
    {
        ReadOnlyMemory<byte> message = worker.Own.Length != 0 ? worker.Own : _message;
        fixed (byte* bytes = message.Span)
        {
            if (LibZmq.zmq_send(worker.Socket, bytes, (nuint)message.Length, LibZmq.ZMQ_DONTWAIT) >= 0)
            {
                worker.State = State.Waiting;
                worker.Own = default;
            }
            else if (LibZmq.zmq_errno() is not (Libc.EAGAIN or Libc.EINTR))
            {
                Throw("zmq_send", worker.Address);
            }
        }
    }

    private void TryReceive(Worker worker)
    {
        fixed (byte* buffer = _answer)
        {
            int length = LibZmq.zmq_recv(worker.Socket, buffer, (nuint)_answer.Length, LibZmq.ZMQ_DONTWAIT);
            if (length < 0)
            {
                if (LibZmq.zmq_errno() is not (Libc.EAGAIN or Libc.EINTR))
                {
                    Throw("zmq_recv", worker.Address);
                }
                return;
            }
            worker.AnswerSeconds = Stopwatch.GetElapsedTime(worker.PostedAt).TotalSeconds;
            worker.State = length == 0 ? State.Answered : State.Failed;
            worker.Error = length == 0 ? null : LastLines(Encoding.UTF8.GetString(_answer.AsSpan(0, Math.Min(length, _answer.Length))));
        }
    }

    // Of a traceback the end says what went wrong.
    private static string LastLines(string text)
    {
        const int MaxChars = 2000;
        text = text.Trim();
        return MessageText.Clean((text.Length > MaxChars ? "…" + text[^MaxChars..] : text).ReplaceLineEndings(" | "), MaxChars + 1);
    }

    // Each event is two frames, the second of which is the address. Gives whether the last connection ended.
    private static bool ReadMonitor(Worker worker)
    {
        const int EventBytes = 6;
        byte* frame = stackalloc byte[EventBytes];
        byte* rest = stackalloc byte[1];
        bool wasCut = false;
        while (LibZmq.zmq_recv(worker.Monitor, frame, EventBytes, LibZmq.ZMQ_DONTWAIT) >= EventBytes)
        {
            _ = LibZmq.zmq_recv(worker.Monitor, rest, 1, LibZmq.ZMQ_DONTWAIT);
            bool connected = MemoryMarshal.Read<ushort>(new ReadOnlySpan<byte>(frame, sizeof(ushort))) == LibZmq.ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
            worker.Connections = Math.Max(0, worker.Connections + (connected ? 1 : -1));
            worker.WasConnected |= connected;
            wasCut |= worker is { WasConnected: true, Connections: 0 };
        }
        return wasCut;
    }

    private enum State : byte
    {
        Idle,
        Sending,
        Waiting,
        Answered,
        Failed,
        Gone,
    }

    private sealed class Worker(string uuid, string address)
    {
        internal readonly string Uuid = uuid;
        internal readonly string Address = address;
        internal void* Socket;
        internal void* Monitor;
        internal State State;
        internal ReadOnlyMemory<byte> Own;
        internal string? Error;
        internal long PostedAt;
        internal double AnswerSeconds;
        internal int Connections;
        internal bool WasConnected;
    }
}
