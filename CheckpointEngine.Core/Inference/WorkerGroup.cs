using System.Diagnostics;
using System.Text;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Inference;

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
    private const int PollItemsOfWorker = 2;

    private static ulong s_updates = BitConverter.ToUInt32(KernelRandom.GetBytes(4));

    private readonly WorkerSocket[] _workers;
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
        _workers = new WorkerSocket[uuids.Count];
        _items = new LibZmq.PollItem[PollItemsOfWorker * uuids.Count];
        _context = LibZmq.zmq_ctx_new();
        // Other processes of this host and other updates of this one have other names, whatever was left open before.
        string counter = $"{Environment.ProcessId}{Interlocked.Increment(ref s_updates)}";
        try
        {
            for (int i = 0; i < _workers.Length; i++)
            {
                _workers[i] = new WorkerSocket(uuids[i], $"ipc://@checkpoint-engine-{uuids[i]}-{counter}.sock");
                _workers[i].Open(_context, $"inproc://monitor-{i}", admits);
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
    internal bool IsGone(int worker) => _workers[worker].State == WorkerState.Gone;

    /// <summary>Sends every worker that is still there a message, now or as soon as it connects; then <see cref="Wait"/> for the answers.</summary>
    /// <param name="message">Stays as it is until the wait has ended.</param>
    internal void Post(ReadOnlyMemory<byte> message)
    {
        _message = message;
        long now = Stopwatch.GetTimestamp();
        foreach (WorkerSocket worker in _workers)
        {
            if (worker.State != WorkerState.Gone)
            {
                worker.State = WorkerState.Sending;
                worker.PostedAt = now;
                worker.TrySend(_message);
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
            _workers[i].State = WorkerState.Sending;
            _workers[i].PostedAt = now;
            _workers[i].TrySend(_message);
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
                return Has(WorkerState.Failed) ? WorkerWait.Failed : Has(WorkerState.Gone) ? WorkerWait.Gone : WorkerWait.Answered;
            }
            if (serverEnded)
            {
                return Has(WorkerState.Failed) ? WorkerWait.Failed : WorkerWait.ServerEnded;
            }
            if (failed == 0 && (Has(WorkerState.Failed) || Has(WorkerState.Gone)))
            {
                failed = Stopwatch.GetTimestamp();
            }
            if (Stopwatch.GetElapsedTime(start) >= timeout || (failed != 0 && Stopwatch.GetElapsedTime(failed) >= s_graceForOthers))
            {
                return Has(WorkerState.Failed) ? WorkerWait.Failed : Has(WorkerState.Gone) ? WorkerWait.Gone : WorkerWait.Late;
            }
        }
    }

    /// <summary>Looks, while nothing was asked of workers, whether all of them are still there and the server still waits for them.</summary>
    /// <returns><see cref="WorkerWait.Answered"/> when so; else <see cref="WorkerWait.Gone"/> or <see cref="WorkerWait.ServerEnded"/>.</returns>
    internal WorkerWait Look(Task server)
    {
        bool serverEnded = server.IsCompleted;
        foreach (WorkerSocket worker in _workers)
        {
            if (worker.ReadMonitor() || worker is { WasConnected: true, Connections: 0 })
            {
                worker.State = WorkerState.Gone;
            }
        }
        return Has(WorkerState.Gone) ? WorkerWait.Gone : serverEnded ? WorkerWait.ServerEnded : WorkerWait.Answered;
    }

    /// <summary>What is wrong with which worker, in words.</summary>
    internal string DescribeFailure()
    {
        var text = new StringBuilder();
        foreach (WorkerSocket worker in _workers)
        {
            if (worker.DescribeFailure() is { } what && text.Length < MaxAnswerBytes)
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
        foreach (WorkerSocket worker in _workers)
        {
            worker.Linger(AbortLingerMilliseconds);
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
                    Thread.Sleep(Has(WorkerState.Sending) || Has(WorkerState.Waiting) ? 0 : SliceMilliseconds);
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
        foreach (WorkerSocket? worker in _workers)
        {
            worker?.Dispose();
        }
        if (_context != null)
        {
            while (LibZmq.zmq_ctx_term(_context) != 0 && LibZmq.zmq_errno() == Libc.EINTR)
            {
            }
            _context = null;
        }
    }

    private bool Has(WorkerState state)
    {
        foreach (WorkerSocket worker in _workers)
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
        foreach (WorkerSocket worker in _workers)
        {
            if (worker.State is WorkerState.Sending or WorkerState.Waiting)
            {
                worker.FillPollItems(_items.AsSpan(count, PollItemsOfWorker));
                count += PollItemsOfWorker;
            }
        }
        fixed (LibZmq.PollItem* items = _items)
        {
            if (LibZmq.zmq_poll(items, count, timeoutMilliseconds) < 0 && LibZmq.zmq_errno() != Libc.EINTR)
            {
                WorkerSocket.Throw("zmq_poll", "workers");
            }
        }
        return Collect();
    }

    private int Collect()
    {
        int open = 0;
        foreach (WorkerSocket worker in _workers)
        {
            if (worker.State is WorkerState.Sending or WorkerState.Waiting)
            {
                // The monitor first: an answer that came before its sender went is still found in the socket.
                bool wasCut = worker.ReadMonitor();
                if (worker.State == WorkerState.Sending)
                {
                    worker.TrySend(_message);
                }
                if (worker.State == WorkerState.Waiting)
                {
                    worker.TryReceive(_answer);
                }
                // Who comes back does not know the message that it was sent before.
                if (worker.State is WorkerState.Sending or WorkerState.Waiting && (worker is { WasConnected: true, Connections: 0 } || (wasCut && worker.State == WorkerState.Waiting)))
                {
                    worker.State = WorkerState.Gone;
                }
            }
            open += worker.State is WorkerState.Sending or WorkerState.Waiting ? 1 : 0;
        }
        return open;
    }
}
