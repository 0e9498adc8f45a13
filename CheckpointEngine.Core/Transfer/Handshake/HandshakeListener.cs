using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>
/// The handshake port of this process. It answers every Mooncake peer and differs from Mooncake's own in that a slow, silent or hostile client
/// holds up nobody else: one task a connection, a deadline on every step.
/// </summary>
/// <remarks>Any number of threads. Source: docs/mooncake-wire.md.</remarks>
internal sealed partial class HandshakeListener : IAsyncDisposable
{
    // An ephemeral port that is free at one address may be taken at another; that twenty draws in a row are would be no accident.
    private const int SharedPortTries = 20;

    // Accept fails without end when file descriptors run out; waiting this long between tries costs nothing and lets some come back.
    private static readonly TimeSpan s_acceptRetryDelay = TimeSpan.FromMilliseconds(100);

    private readonly IHandshakeResponder _responder;
    private readonly HandshakeListenerOptions _options;
    private readonly Socket[] _sockets;
    private readonly Task _accepting;
    private readonly WaitingRoom _silent;
    private readonly CancellationTokenSource _stop = new();
    private readonly TaskCompletionSource _allClosed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _holders = 1;   // open connections, and one for the listener itself
    private int _disposed;

    private HandshakeListener(Socket[] sockets, IHandshakeResponder responder, HandshakeListenerOptions options)
    {
        _sockets = sockets;
        _responder = responder;
        _options = options;
        _silent = new WaitingRoom(new ConnectionLimiter("handshake", options.Limits, options.Logger), HandshakeFrame.LengthBytes, options.ReadTimeout, options.TimeProvider, Serve);
        EndPoints = Array.ConvertAll(sockets, socket => (IPEndPoint)socket.LocalEndPoint!);
        _accepting = Task.WhenAll(Array.ConvertAll(sockets, AcceptAsync));
    }

    /// <summary>Where it listens, with the ports that were drawn; in the order that was given.</summary>
    internal IReadOnlyList<IPEndPoint> EndPoints { get; }

    /// <summary>Connections open now.</summary>
    internal int ConnectionCount => Math.Max(0, Volatile.Read(ref _holders) - 1) + _silent.Count;

    /// <summary>Starts listening.</summary>
    /// <param name="endPoints">
    /// Addresses and ports. Those with port 0 all get the same free port, since one name is announced. The IPv6 wildcard takes IPv4 clients
    /// too, unless an IPv4 address is given beside it.
    /// </param>
    /// <param name="responder">What is answered.</param>
    /// <param name="options">Limits; null for the defaults.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Native"/>: an address could not be bound.</exception>
    internal static HandshakeListener Start(
        IReadOnlyList<IPEndPoint> endPoints, IHandshakeResponder responder, HandshakeListenerOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(responder);
        ArgumentOutOfRangeException.ThrowIfZero(endPoints.Count, nameof(endPoints));
        options ??= new HandshakeListenerOptions();
        for (int attempt = 1; ; attempt++)
        {
            if (TryBind(endPoints, options.Limits.Backlog, lastAttempt: attempt == SharedPortTries) is { } sockets)
            {
                return new HandshakeListener(sockets, responder, options);
            }
        }
    }

    /// <summary>Stops listening, closes every connection, and waits until their tasks have ended.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
        {
            await _stop.CancelAsync().ConfigureAwait(false);
            Array.ForEach(_sockets, socket => socket.Dispose());
            await _accepting.ConfigureAwait(false);
            _silent.Dispose();
            Release();
        }
        await _allClosed.Task.ConfigureAwait(false);
        _stop.Dispose();
    }

    // Null when the port drawn for the first address is taken at another, and another draw may help.
    private static Socket[]? TryBind(IReadOnlyList<IPEndPoint> endPoints, int backlog, bool lastAttempt)
    {
        bool dualMode = !endPoints.Any(endPoint => endPoint.AddressFamily == AddressFamily.InterNetwork);
        var sockets = new List<Socket>();
        int drawnPort = 0;
        foreach (IPEndPoint endPoint in endPoints)
        {
            var wanted = new IPEndPoint(endPoint.Address, endPoint.Port == 0 ? drawnPort : endPoint.Port);
            try
            {
                var socket = new Socket(endPoint.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
                sockets.Add(socket);
                if (endPoint.AddressFamily == AddressFamily.InterNetworkV6)
                {
                    socket.DualMode = dualMode && endPoint.Address.Equals(IPAddress.IPv6Any);
                }
                socket.Bind(wanted);
                socket.Listen(backlog);
                drawnPort = endPoint.Port == 0 ? ((IPEndPoint)socket.LocalEndPoint!).Port : drawnPort;
            }
            catch (SocketException e)
            {
                sockets.ForEach(socket => socket.Dispose());
                if (e.SocketErrorCode == SocketError.AddressAlreadyInUse && endPoint.Port == 0 && drawnPort != 0 && !lastAttempt)
                {
                    return null;
                }
                ThrowHelper.ThrowNative("listening for handshakes at", wanted.ToString(), e.NativeErrorCode,
                    "try another address, or port 0 for any free one");
            }
        }
        return [.. sockets];
    }

    private async Task AcceptAsync(Socket listening)
    {
        await Task.CompletedTask.ConfigureAwait(ConfigureAwaitOptions.ForceYielding);
        while (!_stop.IsCancellationRequested)
        {
            try
            {
                Socket socket = await listening.AcceptAsync(_stop.Token).ConfigureAwait(false);
                if (!_silent.TryEnter(socket))
                {
                    socket.Dispose();
                }
            }
            catch (Exception e) when (e is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
            catch (SocketException e)
            {
                if (_stop.IsCancellationRequested)
                {
                    return;
                }
                LogAcceptFailed(_options.Logger, e);
                await Task.Delay(s_acceptRetryDelay, _options.TimeProvider, _stop.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
        }
    }

    private void Serve(Socket socket, ConnectionSlot slot)
    {
        Interlocked.Increment(ref _holders);
        _ = ServeAsync(socket, slot);       // never throws; counted until it has ended
    }

    private void Release()
    {
        if (Interlocked.Decrement(ref _holders) == 0)
        {
            _allClosed.TrySetResult();
        }
    }

    [LoggerMessage(EventId = 2202, Level = LogLevel.Warning, Message = "handshake: accept failed")]
    private static partial void LogAcceptFailed(ILogger logger, Exception failure);
}
