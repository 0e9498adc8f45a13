using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using CheckpointEngine.Peers;
using CheckpointEngine.Telemetry;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>How a <see cref="TcpDataListener"/> guards itself.</summary>
internal sealed class TcpDataListenerOptions
{
    /// <summary>The token our own lanes must prove; null for none.</summary>
    internal AccessToken? Token { get; init; }

    /// <summary>Who may read without proving anything.</summary>
    internal PlainPeers PlainPeers { get; init; } = PlainPeers.All;

    /// <summary>Connections at a time; each costs a descriptor and some kilobytes.</summary>
    internal ConnectionLimits Limits { get; init; } = new ServerLimits().Data;

    /// <summary><see cref="ServerLimits.DataBytesInFlight"/>.</summary>
    internal int BytesInFlight { get; init; }

    /// <summary>Told of those that are refused; null for nobody.</summary>
    internal AuditLog? Audit { get; init; }

    /// <summary>With what it speaks TLS, and then nothing else; null: it does not. The caller's to dispose of.</summary>
    internal IConnectionSecurity? Security { get; init; }

    /// <summary>For all of the TLS handshake.</summary>
    internal TimeSpan TlsTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long a peer may take to send the rest of a header, or to take any byte of an answer.</summary>
    internal TimeSpan StallTimeout { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Whether what each peer was sent is told by its address.</summary>
    internal bool MeasurePeers { get; init; }

    /// <summary>Whether large pieces are sent without a copy.</summary>
    internal ZeroCopyMode ZeroCopy { get; init; } = ZeroCopyMode.Auto;
}

/// <summary>The data port: answers reads of registered memory in Mooncake's framing, both versions.</summary>
/// <remarks>
/// One task per connection, and as many threads for all of them as there are cores. Reads only: a WRITE is refused. Source: Mooncake's TCP transport on
/// the wire.
/// </remarks>
internal sealed partial class TcpDataListener : IAsyncDisposable
{
    // Addresses whose connections are gone, of which it is known what they were sent.
    private const int MostRemembered = 1024;

    private readonly MemoryRegistry _registry;
    private readonly TcpDataListenerOptions _options;
    private readonly ILogger _logger;
    private readonly ConnectionLimiter _limiter;
    private readonly ServingThreads _threads = new(Math.Clamp(Environment.ProcessorCount, 2, 64));
    private readonly Socket _listener;
    private readonly byte[] _usualCongestionControl;       // of connections from elsewhere; empty: as they are
    private readonly Lock _lock = new();
    private readonly HashSet<TcpDataConnection> _connections = [];
    private readonly PeerTags? _peerTags;                   // null: peers are not measured
    private readonly Dictionary<string, long> _closedByPeer = [];
    private readonly Dictionary<IPAddress, long> _closedByAddress = [];     // of peers that are here, or were lately
    private ServedTotals _closed;                           // what connections have sent that are gone
    private readonly TaskCompletionSource _allClosed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Timer _stallTimer;
    private readonly Task _acceptLoop;
    private bool _disposed;

    /// <summary>Listens at once; port 0 takes a free one.</summary>
    internal TcpDataListener(IPEndPoint bind, MemoryRegistry registry, TcpDataListenerOptions options, ILogger logger)
    {
        _registry = registry;
        _options = options;
        _logger = logger;
        _limiter = new ConnectionLimiter("data", options.Limits, logger);
        _peerTags = options.MeasurePeers ? new PeerTags() : null;
        _listener = SocketTools.Listen(bind, options.Limits.Backlog);
        _usualCongestionControl = SocketTools.PreferPlainCongestionControl(_listener);
        LocalEndPoint = (IPEndPoint)_listener.LocalEndPoint!;
        TimeSpan tick = TimeSpan.FromMilliseconds(Math.Clamp(Math.Min(options.StallTimeout.TotalMilliseconds, options.TlsTimeout.TotalMilliseconds) / 4, 10, 5000));
        _stallTimer = new Timer(static state => ((TcpDataListener)state!).CutStalled(), this, tick, tick);
        LiveServers.Add(this);
        _acceptLoop = AcceptAsync();
    }

    /// <summary>Where it listens.</summary>
    internal IPEndPoint LocalEndPoint { get; }

    /// <summary>How many connections are open now.</summary>
    internal int ConnectionCount
    {
        get
        {
            lock (_lock)
            {
                return _connections.Count;
            }
        }
    }

    /// <summary>What it has sent so far, over connections that are gone too.</summary>
    internal ServedTotals Served()
    {
        lock (_lock)
        {
            ServedTotals all = _closed;
            foreach (TcpDataConnection connection in _connections)
            {
                all += connection.Served;
            }
            return all;
        }
    }

    /// <summary>Peers with connections open: how many, and what they were sent over these and those before.</summary>
    internal IReadOnlyList<ReaderStatus> DescribeReaders()
    {
        lock (_lock)
        {
            return
            [
                .. _connections.GroupBy(static connection => connection.Peer)
                    .Select(peer => new ReaderStatus(peer.Key.ToString(), peer.Count(), peer.Sum(static connection => connection.Served.Bytes) + _closedByAddress.GetValueOrDefault(peer.Key)))
                    .OrderByDescending(static reader => reader.SentBytes),
            ];
        }
    }

    // Under the lock. When there are too many, those that are not here any more are forgotten.
    private void Remember(TcpDataConnection connection)
    {
        if (_closedByAddress.Count >= MostRemembered && !_closedByAddress.ContainsKey(connection.Peer))
        {
            HashSet<IPAddress> here = [.. _connections.Select(static open => open.Peer)];
            foreach (IPAddress gone in _closedByAddress.Keys.Where(address => !here.Contains(address)).ToArray())
            {
                _closedByAddress.Remove(gone);
            }
        }
        _closedByAddress[connection.Peer] = _closedByAddress.GetValueOrDefault(connection.Peer) + connection.Served.Bytes;
    }

    /// <summary>Adds the bytes of each peer, if peers are measured.</summary>
    internal void AddServedByPeer(Dictionary<string, long> sums)
    {
        lock (_lock)
        {
            foreach ((string peer, long bytes) in _closedByPeer)
            {
                sums[peer] = sums.GetValueOrDefault(peer) + bytes;
            }
            foreach (TcpDataConnection connection in _connections.Where(static connection => connection.PeerTag.Length != 0))
            {
                sums[connection.PeerTag] = sums.GetValueOrDefault(connection.PeerTag) + connection.Served.Bytes;
            }
        }
    }

    /// <summary>Threads that serve them now.</summary>
    internal int ThreadCount => _threads.Count;

    /// <summary>Cuts every connection that is reading from <paramref name="range"/>.</summary>
    internal void CutReadersOf(RegisteredRange range)
    {
        foreach (TcpDataConnection connection in Snapshot())
        {
            if (connection.Reads(range))
            {
                LogCut(connection.RemoteAddress, "its memory is being unregistered");
                connection.Cut();
            }
        }
    }

    /// <summary>Stops listening, cuts what is open, waits until every task has ended.</summary>
    public async ValueTask DisposeAsync()
    {
        lock (_lock)
        {
            if (_disposed)
            {
                return;
            }
            _disposed = true;
            if (_connections.Count == 0)
            {
                _allClosed.TrySetResult();
            }
        }
        _listener.Dispose();
        await _stallTimer.DisposeAsync().ConfigureAwait(false);
        foreach (TcpDataConnection connection in Snapshot())
        {
            connection.Cut();
        }
        await _acceptLoop.ConfigureAwait(false);
        await _allClosed.Task.ConfigureAwait(false);
        LiveServers.Remove(this);
        _threads.Dispose();
    }

    private async Task AcceptAsync()
    {
        while (true)
        {
            Socket socket;
            try
            {
                socket = await _listener.AcceptAsync().ConfigureAwait(false);
            }
            catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
            {
                if (_disposed)
                {
                    return;
                }
                LogAcceptFailed(failure.Message);    // out of descriptors, or a client that went away: the listener stays
                await Task.Delay(TimeSpan.FromMilliseconds(50)).ConfigureAwait(false);
                continue;
            }
            TcpDataConnection? connection = null;
            ConnectionSlot? slot = _limiter.TryEnter((socket.RemoteEndPoint as IPEndPoint)?.Address, () => Volatile.Read(ref connection)?.Cut());
            if (slot is null)
            {
                socket.Dispose();
                continue;
            }
            try
            {
                Volatile.Write(ref connection, new TcpDataConnection(socket, slot, _registry, _threads, _options, _usualCongestionControl));
            }
            catch (Exception failure) when (failure is SocketException or IOException or ObjectDisposedException)
            {
                LogAcceptFailed(failure.Message);    // it was reset before it could be served
                slot.Dispose();
                socket.Dispose();
                continue;
            }
            bool isTaken;
            lock (_lock)
            {
                isTaken = !_disposed && _connections.Add(connection);
                connection.PeerTag = isTaken ? _peerTags?.NameOf(connection.Peer) ?? "" : "";
            }
            if (isTaken)
            {
                _ = ServeAsync(connection);
            }
            else
            {
                EngineMetrics.Refused(Refusal.Data, Refusal.Limit);
                connection.Dispose();
            }
        }
    }

    private async Task ServeAsync(TcpDataConnection connection)
    {
        try
        {
            await connection.ServeAsync().ConfigureAwait(false);
        }
        catch (Exception failure) when (failure is SocketException or IOException or ObjectDisposedException or OperationCanceledException)
        {
            LogEnded(connection.RemoteAddress, failure.Message);
        }
        catch (Exception failure)
        {
            LogFailed(connection.RemoteAddress, failure);    // a defect of ours must cost one connection, not the process
        }
        finally
        {
            if (connection.Refusal is string refusal)
            {
                EngineMetrics.Refused(Refusal.Data, connection.RefusalReason);
                LogRefused(connection.RemoteAddress, refusal);
                _options.Audit?.Refused("data", connection.RemoteAddress, refusal);
            }
            await connection.LetGoAsync().ConfigureAwait(false);
            connection.Dispose();
            lock (_lock)
            {
                _connections.Remove(connection);
                _closed += connection.Served;
                Remember(connection);
                if (connection.PeerTag.Length != 0)
                {
                    _closedByPeer[connection.PeerTag] = _closedByPeer.GetValueOrDefault(connection.PeerTag) + connection.Served.Bytes;
                }
                if (_disposed && _connections.Count == 0)
                {
                    _allClosed.TrySetResult();
                }
            }
        }
    }

    private void CutStalled()
    {
        long now = Environment.TickCount64;
        foreach (TcpDataConnection connection in Snapshot())
        {
            if (connection.BusySince is long since && now - since > connection.Patience.TotalMilliseconds)
            {
                LogCut(connection.RemoteAddress, connection.IsIntroducing ? "it began TLS and did not end it in time" : "it made no progress for the stall timeout");
                connection.Cut();
            }
        }
    }

    /// <summary>Connections open now.</summary>
    internal TcpDataConnection[] Snapshot()
    {
        lock (_lock)
        {
            return [.. _connections];
        }
    }

    [LoggerMessage(EventId = 2101, Level = LogLevel.Warning, Message = "tcp: accept failed: {Reason}")]
    private partial void LogAcceptFailed(string reason);

    [LoggerMessage(EventId = 2102, Level = LogLevel.Debug, Message = "tcp: connection of {Peer} ended: {Reason}")]
    private partial void LogEnded(string peer, string reason);

    [LoggerMessage(EventId = 2103, Level = LogLevel.Error, Message = "tcp: connection of {Peer} failed")]
    private partial void LogFailed(string peer, Exception failure);

    [LoggerMessage(EventId = 2104, Level = LogLevel.Warning, Message = "tcp: refused {Peer}: {Reason}")]
    private partial void LogRefused(string peer, string reason);

    [LoggerMessage(EventId = 2105, Level = LogLevel.Warning, Message = "tcp: cut the connection of {Peer}: {Reason}")]
    private partial void LogCut(string peer, string reason);
}
