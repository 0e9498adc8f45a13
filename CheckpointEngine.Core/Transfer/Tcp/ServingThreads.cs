using System.Runtime.InteropServices;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>
/// The few threads that serve any number of connections. A connection that has to wait gives its thread back and comes behind those that are ready
/// (<see cref="SocketReadiness"/>), so a peer that reads slowly or not at all holds nothing that another needs.
/// </summary>
/// <remarks>
/// A set of its own, not the runtime's event loop and pool: a ready connection goes on in the thread that saw it, where the way over the pool costs a
/// quarter of the rate, and senders never take the pool's threads from those who answer HTTP. Source: epoll(7), EPOLLONESHOT.
/// </remarks>
internal sealed unsafe class ServingThreads : IDisposable
{
    private readonly Lock _lock = new();
    private readonly SafeFileHandle _epoll;
    private readonly SafeFileHandle _end;       // always readable; comes into the set when the threads are to end
    private readonly int _limit;
    private int _threads;
    private int _connections;
    private bool _disposed;

    /// <param name="limit">The most threads. One a core keeps every core busy; with more, answers are begun that nobody has the time to read.</param>
    /// <exception cref="CheckpointEngineException">The host gives no descriptors.</exception>
    internal ServingThreads(int limit)
    {
        _limit = limit;
        _epoll = new SafeFileHandle(Libc.epoll_create1(Libc.EPOLL_CLOEXEC), ownsHandle: true);
        _end = new SafeFileHandle(_epoll.IsInvalid ? -1 : Libc.eventfd(1, Libc.EFD_CLOEXEC), ownsHandle: true);
        if (_end.IsInvalid)
        {
            int errno = Marshal.GetLastPInvokeError();
            _epoll.Dispose();
            _end.Dispose();
            throw new CheckpointEngineException(CheckpointError.Unreachable,
                $"listen for transfers: epoll: {Marshal.GetPInvokeErrorMessage(errno)}; raise the limit of open files", errno);
        }
    }

    /// <summary>Whether there are more connections than threads, so that each must let the others have their turn.</summary>
    internal bool IsCrowded => Volatile.Read(ref _connections) > Volatile.Read(ref _threads);

    /// <summary>Threads at this moment.</summary>
    internal int Count => Volatile.Read(ref _threads);

    private int Epoll => (int)_epoll.DangerousGetHandle();

    /// <summary>Counts a connection in, and starts a thread while there are fewer than connections and the limit allows.</summary>
    /// <param name="fd">Its socket; who owns it disposes the result before closing it.</param>
    /// <exception cref="IOException">There is no thread and the host gives none.</exception>
    internal SocketReadiness Add(int fd)
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_threads < _limit && _threads <= _connections)
            {
                StartThread();
            }
            Interlocked.Increment(ref _connections);
        }
        return new SocketReadiness(this, fd);
    }

    /// <summary>Counts a connection out.</summary>
    internal void Remove() => Interlocked.Decrement(ref _connections);

    /// <summary>Arms a descriptor for one event.</summary>
    /// <returns>0, or errno.</returns>
    internal int Arm(int operation, int fd, uint events, nint data)
    {
        byte* one = stackalloc byte[Libc.EpollEvent.MaxSize];
        Libc.EpollEvent.Write(one, events | Libc.EPOLLONESHOT, data);
        return Libc.epoll_ctl(Epoll, operation, fd, one) == 0 ? 0 : Marshal.GetLastPInvokeError();
    }

    /// <summary>Ends the threads, which have no connection any more.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_disposed)
            {
                return;
            }
            _disposed = true;
            byte* all = stackalloc byte[Libc.EpollEvent.MaxSize];
            Libc.EpollEvent.Write(all, Libc.EPOLLIN, 0);
            _ = Libc.epoll_ctl(Epoll, Libc.EPOLL_CTL_ADD, (int)_end.DangerousGetHandle(), all);
            CloseIfUnused();
        }
    }

    private void StartThread()
    {
        try
        {
            new Thread(Run) { IsBackground = true, Name = "checkpoint-engine data" }.Start();
        }
        catch (Exception none) when (none is OutOfMemoryException or ThreadStartException)
        {
            if (_threads == 0)
            {
                throw new IOException("the host gives no thread to serve it; raise the limit of processes and threads", none);
            }
            return;
        }
        _threads++;
    }

    private void Run()
    {
        byte* one = stackalloc byte[Libc.EpollEvent.MaxSize];
        while (true)
        {
            // One at a time: an event is a megabyte of work, and the ones behind it are for the other threads.
            if (Libc.epoll_wait(Epoll, one, 1, -1) != 1)
            {
                continue;       // EINTR: nothing else can happen to a set that is open
            }
            nint data = Libc.EpollEvent.Data(one);
            if (data == 0)
            {
                break;
            }
            SocketReadiness.Resume(data, Libc.EpollEvent.Events(one));
        }
        lock (_lock)
        {
            _threads--;
            CloseIfUnused();
        }
    }

    private void CloseIfUnused()
    {
        if (_threads == 0)
        {
            _epoll.Dispose();
            _end.Dispose();
        }
    }
}
