using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Peers;

/// <summary>Limits of a <see cref="PeerListener"/>.</summary>
internal sealed record PeerListenerOptions
{
    /// <summary>For hello and proof together.</summary>
    internal TimeSpan IntroductionTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long a conversation may rest between two requests.</summary>
    internal TimeSpan IdleTimeout { get; init; } = TimeSpan.FromMinutes(10);

    /// <summary>How long a lease lives without a word of its holder, who is to renew it three times as often.</summary>
    internal TimeSpan LeaseLifetime { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>How long a client may leave a piece of an answer where it is.</summary>
    internal TimeSpan StallTimeout { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Which users may ask over a Unix socket when no token is demanded; default the own one and root.</summary>
    internal LocalPeers LocalPeers { get; init; } = LocalPeers.Own;

    /// <summary>Conversations and requests at a time. Thousands of joiners at a time are served by other holders.</summary>
    internal ConnectionLimits Limits { get; init; } = new ServerLimits().Peers;

    /// <summary>The most leases of one conversation.</summary>
    internal int MaxLeases { get; init; } = new ServerLimits().LeasesOfAConversation;

    /// <summary>With what it speaks TLS over TCP; null: it does not. The caller's to dispose of.</summary>
    internal IConnectionSecurity? Security { get; init; }

    /// <summary>Whether the data port of this process speaks TLS and nothing else, as each hello says.</summary>
    internal bool EncryptsData { get; init; }

    /// <summary>Told of those that are refused; null for nobody.</summary>
    internal AuditLog? Audit { get; init; }
}

/// <summary>The peer service: the one side channel between two of our own processes.</summary>
/// <remarks>One task per connection. See <see cref="PeerSession"/> for what is said.</remarks>
internal sealed partial class PeerListener : IAsyncDisposable
{
    private readonly Socket _listener;
    private readonly IPeerResponder _responder;
    private readonly AccessToken? _token;
    private readonly PeerListenerOptions _options;
    private readonly ILogger _logger;
    private readonly WaitingRoom _silent;
    private readonly CancellationTokenSource _stop = new();
    private readonly Lock _lock = new();
    private readonly HashSet<Task> _sessions = [];
    private readonly HashSet<PeerSession> _open = [];
    private readonly Task _acceptLoop;

    /// <summary>Listens at a TCP address.</summary>
    /// <exception cref="CheckpointEngineException">The address or port cannot be had.</exception>
    internal PeerListener(IPEndPoint bind, IPeerResponder responder, AccessToken? token, ILogger logger, PeerListenerOptions? options = null)
        : this(SocketTools.Listen(bind, (options ?? new PeerListenerOptions()).Limits.Backlog), responder, token, logger, options)
    {
    }

    /// <summary>Listens at a Unix socket, <see cref="LocalSocketName"/>.</summary>
    /// <exception cref="CheckpointEngineException">It cannot be had.</exception>
    internal PeerListener(string localSocket, IPeerResponder responder, AccessToken? token, ILogger logger, PeerListenerOptions options)
        : this(ListenLocally(localSocket, options.Limits.Backlog), responder, token, logger, options)
    {
    }

    private PeerListener(Socket listener, IPeerResponder responder, AccessToken? token, ILogger logger, PeerListenerOptions? options)
    {
        _responder = responder;
        _token = token;
        _options = options ?? new PeerListenerOptions();
        _logger = logger;
        var limiter = new ConnectionLimiter(listener.LocalEndPoint is IPEndPoint ? "peers" : "local", _options.Limits, logger);
        _silent = new WaitingRoom(limiter, PeerFrame.HeaderBytes, _options.IntroductionTimeout, TimeProvider.System, Serve);
        _listener = listener;
        LocalEndPoint = listener.LocalEndPoint as IPEndPoint ?? new IPEndPoint(IPAddress.None, 0);
        _acceptLoop = AcceptAsync();
    }

    /// <summary>Where it listens; nowhere for a Unix socket.</summary>
    internal IPEndPoint LocalEndPoint { get; }

    /// <summary>Conversations open now, those that have not begun among them.</summary>
    internal int SessionCount
    {
        get
        {
            int silent = _silent.Count;
            lock (_lock)
            {
                return silent + _sessions.Count;
            }
        }
    }

    /// <summary>Breaks the conversations whose peers may be reading that range out of this process.</summary>
    internal void CutHoldersOf(RegisteredRange range)
    {
        PeerSession[] holders;
        lock (_lock)
        {
            holders = [.. _open.Where(session => session.Holds(range))];
        }
        foreach (PeerSession session in holders)
        {
            session.Cut();
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync().ConfigureAwait(false);
        _listener.Dispose();
        await _acceptLoop.ConfigureAwait(false);
        _silent.Dispose();
        Task[] sessions;
        lock (_lock)
        {
            sessions = [.. _sessions];
        }
        await Task.WhenAll(sessions).ConfigureAwait(false);
        _stop.Dispose();
    }

    // Who may connect is decided by who they are, not by the mode of a file: pods that share a socket have users of their own.
    private static Socket ListenLocally(string name, int backlog)
    {
        const UnixFileMode Everybody = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead | UnixFileMode.GroupWrite | UnixFileMode.OtherRead | UnixFileMode.OtherWrite;
        Socket socket = UnixSocketListener.Bind(LocalSocketName.ToEndPoint(name), Everybody);
        try
        {
            socket.Listen(backlog);
            return socket;
        }
        catch (SocketException failure)
        {
            socket.Dispose();
            throw new CheckpointEngineException(CheckpointError.Io, $"listen at unix:{name}: {failure.Message}", failure.NativeErrorCode, failure);
        }
    }

    private async Task AcceptAsync()
    {
        while (!_stop.IsCancellationRequested)
        {
            Socket socket;
            try
            {
                socket = await _listener.AcceptAsync().ConfigureAwait(false);
            }
            catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
            {
                if (!_stop.IsCancellationRequested)
                {
                    LogAcceptFailed(failure.Message);
                    await Task.Delay(TimeSpan.FromMilliseconds(50)).ConfigureAwait(false);
                }
                continue;
            }
            if (!_silent.TryEnter(socket))
            {
                EngineMetrics.Refused(Refusal.Peer, Refusal.Limit);
                Refuse(socket, isPlain: _options.Security is null || socket.AddressFamily == AddressFamily.Unix);
            }
        }
    }

    private void Serve(Socket socket, ConnectionSlot slot)
    {
        lock (_lock)
        {
            Task session = Task.Run(() => ServeAsync(socket, slot));
            _sessions.Add(session);
            _ = session.ContinueWith(Remove, TaskScheduler.Default);
        }
    }

    private async Task<SecuredConnection> SecureAsync(Socket socket, IConnectionSecurity security)
    {
        using var introduction = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token);
        introduction.CancelAfter(_options.IntroductionTimeout);
        return await security.SecureAsync(new NetworkStream(socket, ownsSocket: false), introduction.Token).ConfigureAwait(false);
    }

    // Said at once or not at all: a socket that is new has room for it.
    private static void Refuse(Socket socket, bool isPlain)
    {
        try
        {
            socket.Blocking = false;
            socket.Send(!isPlain ? [] : PeerSession.ErrorFrame(CheckpointError.Busy, "as many conversations as this holder allows are open; try again later, or another holder (--max-connections there)"));
            socket.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException)
        {
            // Then it learns no reason.
        }
        socket.Dispose();
    }

    private void Remove(Task session)
    {
        lock (_lock)
        {
            _sessions.Remove(session);
        }
    }

    private async Task ServeAsync(Socket socket, ConnectionSlot slot)
    {
        string peer = "";
        using ConnectionSlot place = slot;
        try
        {
            if (socket.AddressFamily == AddressFamily.Unix)
            {
                PeerCredentials credentials = PeerCredentials.Of(socket);
                peer = $"process {credentials.ProcessId} of user {credentials.UserId}";
            }
            else
            {
                peer = socket.RemoteEndPoint?.ToString() ?? "";
                socket.NoDelay = true;
            }
            SecuredConnection? secured = socket.AddressFamily == AddressFamily.Unix || _options.Security is null ? null : await SecureAsync(socket, _options.Security).ConfigureAwait(false);
            using Stream? inside = secured?.Stream;
            peer = secured is null or { Peer.Length: 0 } ? peer : $"{peer} ({secured.Peer})";
            using var session = new PeerSession(socket, _responder, _token, _options, secured) { Peer = peer, Slot = slot };
            lock (_lock)
            {
                _open.Add(session);
            }
            try
            {
                await session.RunAsync(_stop.Token).ConfigureAwait(false);
            }
            finally
            {
                lock (_lock)
                {
                    _open.Remove(session);
                }
            }
        }
        catch (CheckpointEngineException refused)
        {
            EngineMetrics.Refused(Refusal.Peer, Refusal.ReasonOf(refused.Error));
            LogRefused(peer, refused.Message);
            _options.Audit?.Refused(Plane(socket), peer, refused.Message);
        }
        catch (Exception failure) when (failure is SocketException or IOException or OperationCanceledException or ObjectDisposedException)
        {
            LogEnded(peer, failure.Message);
        }
        catch (Exception failure)
        {
            LogFailed(peer, failure);
        }
        finally
        {
            socket.Dispose();
        }
    }

    /// <summary>What the audit log calls it.</summary>
    internal static string Plane(Socket socket) => socket.AddressFamily == AddressFamily.Unix ? "local" : "peers";

    [LoggerMessage(EventId = 3001, Level = LogLevel.Warning, Message = "peers: accept failed: {Reason}")]
    private partial void LogAcceptFailed(string reason);

    [LoggerMessage(EventId = 3002, Level = LogLevel.Warning, Message = "peers: refused {Peer}: {Reason}")]
    private partial void LogRefused(string peer, string reason);

    [LoggerMessage(EventId = 3003, Level = LogLevel.Debug, Message = "peers: conversation with {Peer} ended: {Reason}")]
    private partial void LogEnded(string peer, string reason);

    [LoggerMessage(EventId = 3004, Level = LogLevel.Error, Message = "peers: conversation with {Peer} failed")]
    private partial void LogFailed(string peer, Exception failure);
}
