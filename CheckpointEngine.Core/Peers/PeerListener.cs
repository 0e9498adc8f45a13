using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Peers;

/// <summary>Limits of a <see cref="PeerListener"/>.</summary>
internal sealed record PeerListenerOptions
{
    /// <summary>For hello and proof together.</summary>
    internal TimeSpan IntroductionTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long a conversation may rest between two requests.</summary>
    internal TimeSpan IdleTimeout { get; init; } = TimeSpan.FromMinutes(10);

    /// <summary>How long a client may leave a piece of an answer where it is.</summary>
    internal TimeSpan StallTimeout { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>The most conversations at a time. A joiner has one with each owner; thousands of joiners at a time are served by other holders.</summary>
    internal int MaxConnections { get; init; } = 2048;
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
    private readonly CancellationTokenSource _stop = new();
    private readonly Lock _lock = new();
    private readonly HashSet<Task> _sessions = [];
    private readonly Task _acceptLoop;

    internal PeerListener(IPEndPoint bind, IPeerResponder responder, AccessToken? token, ILogger logger, PeerListenerOptions? options = null)
    {
        _responder = responder;
        _token = token;
        _options = options ?? new PeerListenerOptions();
        _logger = logger;
        _listener = SocketTools.Listen(bind, backlog: 512);
        LocalEndPoint = (IPEndPoint)_listener.LocalEndPoint!;
        _acceptLoop = AcceptAsync();
    }

    internal IPEndPoint LocalEndPoint { get; }

    /// <summary>Conversations open now.</summary>
    internal int SessionCount
    {
        get
        {
            lock (_lock)
            {
                return _sessions.Count;
            }
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync().ConfigureAwait(false);
        _listener.Dispose();
        await _acceptLoop.ConfigureAwait(false);
        Task[] sessions;
        lock (_lock)
        {
            sessions = [.. _sessions];
        }
        await Task.WhenAll(sessions).ConfigureAwait(false);
        _stop.Dispose();
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
            lock (_lock)
            {
                if (_sessions.Count >= _options.MaxConnections)
                {
                    socket.Dispose();
                    continue;
                }
                Task session = Task.Run(() => ServeAsync(socket));
                _sessions.Add(session);
                _ = session.ContinueWith(Remove, TaskScheduler.Default);
            }
        }
    }

    private void Remove(Task session)
    {
        lock (_lock)
        {
            _sessions.Remove(session);
        }
    }

    private async Task ServeAsync(Socket socket)
    {
        string peer = "";
        try
        {
            peer = socket.RemoteEndPoint?.ToString() ?? "";
            socket.NoDelay = true;
            using var session = new PeerSession(socket, _responder, _token, _options);
            await session.RunAsync(_stop.Token).ConfigureAwait(false);
        }
        catch (CheckpointEngineException refused)
        {
            LogRefused(peer, refused.Message);
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

    [LoggerMessage(Level = LogLevel.Warning, Message = "peers: accept failed: {Reason}")]
    private partial void LogAcceptFailed(string reason);

    [LoggerMessage(Level = LogLevel.Warning, Message = "peers: refused {Peer}: {Reason}")]
    private partial void LogRefused(string peer, string reason);

    [LoggerMessage(Level = LogLevel.Debug, Message = "peers: conversation with {Peer} ended: {Reason}")]
    private partial void LogEnded(string peer, string reason);

    [LoggerMessage(Level = LogLevel.Error, Message = "peers: conversation with {Peer} failed")]
    private partial void LogFailed(string peer, Exception failure);
}
