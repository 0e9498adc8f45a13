using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

/// <summary>ZeroMQ, which the workers of inference servers speak: loaded when an update wants it, and never needed otherwise.</summary>
/// <remarks>
/// Every call but <see cref="TryLoad"/> needs that to have succeeded before. A context may be used by any thread, a socket by one at a time. Failure is
/// -1 (null for what makes something) and <see cref="zmq_errno"/>. Source: zmq.h of libzmq 4.3.4 and its man pages.
/// </remarks>
internal static unsafe class LibZmq
{
    internal const int ZMQ_PAIR = 0;
    internal const int ZMQ_REQ = 3;
    internal const int ZMQ_REP = 4;

    internal const int ZMQ_LINGER = 17;             // milliseconds
    internal const int ZMQ_MAXMSGSIZE = 22;         // bytes, 64 bits wide
    internal const int ZMQ_RCVTIMEO = 27;           // milliseconds
    internal const int ZMQ_REQ_RELAXED = 53;
    internal const int ZMQ_IPC_FILTER_UID = 59;

    internal const int ZMQ_DONTWAIT = 1;

    internal const short ZMQ_POLLIN = 1;
    internal const short ZMQ_POLLOUT = 2;

    internal const int ZMQ_EVENT_DISCONNECTED = 0x0200;
    internal const int ZMQ_EVENT_HANDSHAKE_SUCCEEDED = 0x1000;

    private const string Library = "libzmq.so.5";

    private static readonly Lock s_loading = new();
    private static volatile bool s_loaded;

    private static delegate* unmanaged<void*> s_ctx_new;
    private static delegate* unmanaged<void*, int> s_ctx_term;
    private static delegate* unmanaged<void*, int, void*> s_socket;
    private static delegate* unmanaged<void*, int> s_close;
    private static delegate* unmanaged<void*, int, void*, nuint, int> s_setsockopt;
    private static delegate* unmanaged<void*, byte*, int> s_bind;
    private static delegate* unmanaged<void*, byte*, int> s_connect;
    private static delegate* unmanaged<void*, void*, nuint, int, int> s_send;
    private static delegate* unmanaged<void*, void*, nuint, int, int> s_recv;
    private static delegate* unmanaged<PollItem*, int, nint, int> s_poll;
    private static delegate* unmanaged<void*, byte*, int, int> s_socket_monitor;
    private static delegate* unmanaged<int> s_errno;
    private static delegate* unmanaged<int, byte*> s_strerror;

    /// <summary>Loads the library, once. Any thread.</summary>
    /// <param name="reason">Why it is not to be had, and what to do; null when it is there.</param>
    internal static bool TryLoad([NotNullWhen(false)] out string? reason)
    {
        lock (s_loading)
        {
            reason = s_loaded ? null : Load();
            s_loaded |= reason is null;
            return reason is null;
        }
    }

    private static string? Load()
    {
        if (!NativeLibrary.TryLoad(Library, out nint library))
        {
            return $"{Library} is not on this host, and the workers of inference servers speak ZeroMQ; install it (Debian: libzmq5, Fedora: zeromq), or hand the weights over as files (--engine vllm-files, sglang-files)";
        }
        string? missing = null;
        s_ctx_new = (delegate* unmanaged<void*>)Need("zmq_ctx_new");
        s_ctx_term = (delegate* unmanaged<void*, int>)Need("zmq_ctx_term");
        s_socket = (delegate* unmanaged<void*, int, void*>)Need("zmq_socket");
        s_close = (delegate* unmanaged<void*, int>)Need("zmq_close");
        s_setsockopt = (delegate* unmanaged<void*, int, void*, nuint, int>)Need("zmq_setsockopt");
        s_bind = (delegate* unmanaged<void*, byte*, int>)Need("zmq_bind");
        s_connect = (delegate* unmanaged<void*, byte*, int>)Need("zmq_connect");
        s_send = (delegate* unmanaged<void*, void*, nuint, int, int>)Need("zmq_send");
        s_recv = (delegate* unmanaged<void*, void*, nuint, int, int>)Need("zmq_recv");
        s_poll = (delegate* unmanaged<PollItem*, int, nint, int>)Need("zmq_poll");
        s_socket_monitor = (delegate* unmanaged<void*, byte*, int, int>)Need("zmq_socket_monitor");
        s_errno = (delegate* unmanaged<int>)Need("zmq_errno");
        s_strerror = (delegate* unmanaged<int, byte*>)Need("zmq_strerror");
        return missing is null ? null : $"{Library} has no {missing}: it is older than ZeroMQ 4.0; install a newer one (Debian: libzmq5)";

        void* Need(string symbol)
        {
            bool found = NativeLibrary.TryGetExport(library, symbol, out nint address);
            missing ??= found ? null : symbol;
            return (void*)address;
        }
    }

    /// <summary>Makes a context; its threads start with its first socket.</summary>
    internal static void* zmq_ctx_new() => s_ctx_new();

    /// <summary>Ends a context: waits until every socket is closed and what lingers is sent or given up. -1 and EINTR: once more.</summary>
    internal static int zmq_ctx_term(void* context) => s_ctx_term(context);

    /// <summary>Makes a socket; null when there are too many.</summary>
    internal static void* zmq_socket(void* context, int type) => s_socket(context, type);

    /// <summary>Closes a socket; what is still to be sent lingers as <see cref="ZMQ_LINGER"/> says.</summary>
    internal static int zmq_close(void* socket) => s_close(socket);

    /// <summary>Sets an option.</summary>
    internal static int zmq_setsockopt(void* socket, int option, void* value, nuint length) => s_setsockopt(socket, option, value, length);

    /// <summary>Listens at an address.</summary>
    internal static int zmq_bind(void* socket, byte* address) => s_bind(socket, address);

    /// <summary>Connects to an address, in the background.</summary>
    internal static int zmq_connect(void* socket, byte* address) => s_connect(socket, address);

    /// <summary>Queues one frame, which is copied. Bytes, or -1: EAGAIN with <see cref="ZMQ_DONTWAIT"/> when nobody is connected.</summary>
    internal static int zmq_send(void* socket, void* bytes, nuint length, int flags) => s_send(socket, bytes, length, flags);

    /// <summary>Takes one frame, cut to the buffer. Its whole length, or -1: EAGAIN with <see cref="ZMQ_DONTWAIT"/> when there is none.</summary>
    internal static int zmq_recv(void* socket, void* buffer, nuint length, int flags) => s_recv(socket, buffer, length, flags);

    /// <summary>Waits for sockets. How many have something, 0 after the time, or -1.</summary>
    internal static int zmq_poll(PollItem* items, int count, nint timeoutMilliseconds) => s_poll(items, count, timeoutMilliseconds);

    /// <summary>Tells a <see cref="ZMQ_PAIR"/> socket of this context, connected to <paramref name="address"/> (inproc), what happens to connections; null ends it.</summary>
    internal static int zmq_socket_monitor(void* socket, byte* address, int events) => s_socket_monitor(socket, address, events);

    /// <summary>The calling thread's newest error.</summary>
    internal static int zmq_errno() => s_errno();

    /// <summary>An error in words.</summary>
    internal static string Describe(int errno) => Marshal.PtrToStringUTF8((nint)s_strerror(errno)) ?? "unknown error";

    /// <summary><c>zmq_pollitem_t</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct PollItem
    {
        internal void* socket;
        internal int fd;
        internal short events;
        internal short revents;
    }
}
