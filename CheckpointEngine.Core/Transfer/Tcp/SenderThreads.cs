using System.Runtime.CompilerServices;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>
/// A few threads for connections that are sending: a task that awaits <see cref="Switch"/> goes on in one of them, may block there, and leaves it
/// at its next wait. A thread that waits for room in poll(2) is woken once; the way over the event loop and the pool costs a quarter of the rate.
/// </summary>
/// <remarks>Any number of threads. When all are taken the task stays where it is, and must not block. Threads are made when first needed.</remarks>
internal sealed class SenderThreads : IDisposable
{
    [ThreadStatic]
    private static bool t_isSender;

    private readonly Lock _lock = new();
    private readonly Queue<Action> _waiting = new();
    private readonly SemaphoreSlim _work = new(0);
    private readonly int _limit;
    private int _threads;
    private int _free;
    private bool _disposed;

    /// <param name="limit">The most threads. More than a few connections that send at full speed share the cores anyway.</param>
    internal SenderThreads(int limit) => _limit = limit;

    /// <summary>Whether the calling thread may block.</summary>
    internal static bool IsSender => t_isSender;

    /// <summary>To be awaited: goes on in a sender thread, if one is to be had.</summary>
    internal SwitchAwaitable Switch() => new(this);

    /// <summary>Ends the threads once they are free.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            _disposed = true;
            if (_threads != 0)
            {
                _work.Release(_threads);
            }
        }
    }

    // Takes a thread for `continuation`, or says that none is to be had.
    private bool TryStart(Action continuation)
    {
        lock (_lock)
        {
            if (_disposed || (_free == 0 && _threads == _limit))
            {
                return false;
            }
            if (_free == 0)
            {
                try
                {
                    new Thread(Run) { IsBackground = true, Name = "checkpoint-engine send" }.Start();
                }
                catch (Exception none) when (none is OutOfMemoryException or ThreadStartException)
                {
                    return false;       // the host gives no more threads: the task stays where it is
                }
                _threads++;
            }
            else
            {
                _free--;
            }
            _waiting.Enqueue(continuation);
        }
        _work.Release();
        return true;
    }

    private void Run()
    {
        t_isSender = true;
        while (true)
        {
            _work.Wait();
            Action? continuation;
            lock (_lock)
            {
                if (!_waiting.TryDequeue(out continuation))
                {
                    return;     // disposed
                }
            }
            continuation();
            lock (_lock)
            {
                _free++;
            }
        }
    }

    /// <summary>What <see cref="Switch"/> gives.</summary>
    internal readonly struct SwitchAwaitable(SenderThreads threads) : ICriticalNotifyCompletion
    {
        public SwitchAwaitable GetAwaiter() => this;

        public bool IsCompleted => t_isSender;

        public void GetResult()
        {
        }

        public void OnCompleted(Action continuation) => UnsafeOnCompleted(continuation);

        public void UnsafeOnCompleted(Action continuation)
        {
            if (!threads.TryStart(continuation))
            {
                continuation();
            }
        }
    }
}
