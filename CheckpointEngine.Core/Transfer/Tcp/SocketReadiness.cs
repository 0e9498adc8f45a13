using System.Net.Sockets;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>A connection's wait for its socket: <c>await readiness.For(events)</c> goes on in one of the <see cref="ServingThreads"/>.</summary>
/// <remarks>One wait at a time; a wait allocates nothing. EPOLLERR and EPOLLHUP end every wait.</remarks>
internal sealed class SocketReadiness : ICriticalNotifyCompletion, IDisposable
{
    private readonly ServingThreads _threads;
    private readonly int _fd;
    private GCHandle _self;             // what the kernel hands back; only while armed, so it is never one that was freed
    private Action? _continuation;
    private bool _isInSet;
    private uint _events;
    private int _errno;

    internal SocketReadiness(ServingThreads threads, int fd)
    {
        _threads = threads;
        _fd = fd;
        _self = GCHandle.Alloc(this);
    }

    /// <summary>Whether others wait for the thread of this one.</summary>
    internal bool OthersWait => _threads.IsCrowded;

    public bool IsCompleted => false;

    /// <summary>To be awaited; gives the events that came. Those who are ready already come first.</summary>
    internal SocketReadiness For(uint events)
    {
        _events = events;
        return this;
    }

    public SocketReadiness GetAwaiter() => this;

    /// <exception cref="SocketException">The kernel could not wait.</exception>
    public uint GetResult() => _errno == 0 ? _events : throw new SocketException(_errno);

    public void OnCompleted(Action continuation) => UnsafeOnCompleted(continuation);

    public void UnsafeOnCompleted(Action continuation)
    {
        int operation = _isInSet ? Libc.EPOLL_CTL_MOD : Libc.EPOLL_CTL_ADD;
        _isInSet = true;
        Volatile.Write(ref _continuation, continuation);
        int errno = _threads.Arm(operation, _fd, _events, GCHandle.ToIntPtr(_self));     // from here on another thread may go on with it
        if (errno != 0)
        {
            _errno = errno;
            continuation();
        }
    }

    /// <summary>Goes on with the connection that <paramref name="data"/> stands for.</summary>
    internal static void Resume(nint data, uint events)
    {
        var readiness = (SocketReadiness)GCHandle.FromIntPtr(data).Target!;
        readiness._events = events;
        Volatile.Read(ref readiness._continuation)!();
    }

    /// <summary>Leaves the set; nobody may be waiting.</summary>
    public void Dispose()
    {
        if (_self.IsAllocated)
        {
            if (_isInSet)
            {
                _threads.Arm(Libc.EPOLL_CTL_DEL, _fd, 0, 0);
            }
            _self.Free();
            _threads.Remove();
        }
    }
}
