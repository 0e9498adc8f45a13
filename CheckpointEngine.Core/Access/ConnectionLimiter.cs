using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Internal;
using CheckpointEngine.Telemetry;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Access;

/// <summary>
/// Keeps the connections of one listener within <see cref="ConnectionLimits"/>. When there is no room, the connection that has waited longest for its peer's first
/// word, or its next one, is closed for the newcomer: silent connections, however many, keep nobody out.
/// </summary>
/// <remarks>Any number of threads. What it closes and refuses is counted, and logged once in ten seconds.</remarks>
public sealed partial class ConnectionLimiter
{
    private const long SweepMilliseconds = 1000;
    private static readonly TimeSpan s_longestWait = TimeSpan.FromSeconds(5);

    private readonly string _listener;
    private readonly ILogger _logger;
    private readonly TimeProvider _clock;
    private readonly LogThrottle _throttle;
    private readonly Lock _lock = new();
    private readonly Dictionary<UInt128, Client> _clients = [];
    private readonly Client _local = new();         // Unix sockets: all of one host, who come in by who they are
    private readonly LinkedList<ConnectionSlot> _waiting = new();       // who waits for its peer; the longest first
    private int _count;
    private long _refused;
    private long _displaced;
    private long _refusedRequests;
    private long _swept;

    /// <param name="listener">Its name, for the log and metrics.</param>
    /// <param name="limits">What it lets in.</param>
    /// <param name="logger">Told of what was refused.</param>
    /// <param name="clock">What requests are timed by; null for the system's.</param>
    public ConnectionLimiter(string listener, ConnectionLimits limits, ILogger logger, TimeProvider? clock = null)
    {
        ArgumentNullException.ThrowIfNull(limits);
        limits.ThrowIfUnfit(nameof(limits));
        _listener = listener;
        Limits = limits;
        _logger = logger;
        _clock = clock ?? TimeProvider.System;
        _throttle = new LogThrottle(TimeSpan.FromSeconds(10), 1, _clock);
    }

    /// <summary>The limits.</summary>
    public ConnectionLimits Limits { get; }

    /// <summary>Connections at this moment.</summary>
    public int Count => Volatile.Read(ref _count);

    /// <summary>Connections that were refused: all others were of use.</summary>
    public long RefusedCount => Interlocked.Read(ref _refused);

    /// <summary>Connections that were closed for a newcomer.</summary>
    public long DisplacedCount => Interlocked.Read(ref _displaced);

    /// <summary>Requests that were refused for their number.</summary>
    public long RefusedRequestCount => Interlocked.Read(ref _refusedRequests);

    /// <summary>Lets a connection in.</summary>
    /// <param name="address">Where it comes from; null over a Unix socket.</param>
    /// <param name="displace">Closes it, to make room for another; called once at most, from any thread.</param>
    /// <returns>Its place, to be disposed of when it is closed; null when there is none and it must be refused.</returns>
    public ConnectionSlot? TryEnter(IPAddress? address, Action displace)
    {
        ConnectionSlot? gone = null;
        ConnectionSlot? slot = null;
        lock (_lock)
        {
            Sweep();
            Client client = Find(address);
            bool isFull = _count >= Limits.Connections;
            bool isClientFull = address is not null && client.Count >= Limits.ConnectionsOfAnAddress;
            if (isFull || isClientFull)
            {
                gone = (isClientFull ? client.Waiting : _waiting).First?.Value;
                if (gone is not null)
                {
                    Remove(gone);
                    _displaced++;
                }
                else
                {
                    _refused++;
                }
            }
            if (gone is not null || (!isFull && !isClientFull))
            {
                slot = new ConnectionSlot(this, client, address, displace);
                _waiting.AddLast(slot.Node);
                client.Waiting.AddLast(slot.NodeOfClient);
                client.Count++;
                _count++;
            }
        }
        gone?.Displace();
        if (gone is not null)
        {
            EngineMetrics.Displaced(_listener);
        }
        else if (slot is null)
        {
            EngineMetrics.ConnectionRefused(_listener);
        }
        if ((gone is not null || slot is null) && _throttle.TryTake(out _))
        {
            LogFull(_listener, Count, RefusedCount, DisplacedCount, slot is null ? "refused" : "let in for one that was silent", address?.ToString() ?? "this host");
        }
        return slot;
    }

    internal void BeginUse(ConnectionSlot slot)
    {
        lock (_lock)
        {
            if (slot.Requests++ == 0 && !slot.HasLeft)
            {
                _waiting.Remove(slot.Node);
                slot.Client.Waiting.Remove(slot.NodeOfClient);
            }
        }
    }

    internal void EndUse(ConnectionSlot slot)
    {
        lock (_lock)
        {
            if (--slot.Requests == 0 && !slot.HasLeft)
            {
                _waiting.AddLast(slot.Node);
                slot.Client.Waiting.AddLast(slot.NodeOfClient);
            }
        }
    }

    internal TimeSpan? TakeRequest(Client client)
    {
        if (Limits.RequestsPerSecond == 0 || client == _local)
        {
            return TimeSpan.Zero;
        }
        lock (_lock)
        {
            // The moment from which on the address owes nothing: each request moves it by its share of a second, a second's worth may come at once.
            long now = _clock.GetTimestamp();
            long share = _clock.TimestampFrequency / Limits.RequestsPerSecond;
            long paid = Math.Max(client.PaidUntil, now - _clock.TimestampFrequency) + share;
            TimeSpan wait = paid > now ? _clock.GetElapsedTime(now, paid) : TimeSpan.Zero;
            if (wait > s_longestWait)
            {
                _refusedRequests++;
            }
            else
            {
                client.PaidUntil = paid;
                return wait;
            }
        }
        EngineMetrics.RequestRefused(_listener);
        if (_throttle.TryTake(out _))
        {
            LogTooMany(_listener, RefusedRequestCount, Limits.RequestsPerSecond);
        }
        return null;
    }

    internal void Leave(ConnectionSlot slot)
    {
        lock (_lock)
        {
            Remove(slot);
        }
    }

    private void Remove(ConnectionSlot slot)
    {
        if (slot.HasLeft)
        {
            return;
        }
        slot.HasLeft = true;
        _count--;
        slot.Client.Count--;
        if (slot.Requests == 0)
        {
            _waiting.Remove(slot.Node);
            slot.Client.Waiting.Remove(slot.NodeOfClient);
        }
    }

    private Client Find(IPAddress? address)
    {
        if (address is null)
        {
            return _local;
        }
        UInt128 key = Key(address);
        if (!_clients.TryGetValue(key, out Client? client))
        {
            _clients.Add(key, client = new Client());
        }
        return client;
    }

    // Those that are gone and owe nothing are forgotten.
    private void Sweep()
    {
        long now = Environment.TickCount64;
        if (now - _swept < SweepMilliseconds)
        {
            return;
        }
        _swept = now;
        long owes = _clock.GetTimestamp();
        foreach ((UInt128 key, Client client) in _clients)
        {
            if (client.Count == 0 && client.PaidUntil <= owes)
            {
                _clients.Remove(key);       // the one thing that may be done to a dictionary that is being walked
            }
        }
    }

    private static UInt128 Key(IPAddress address)
    {
        Span<byte> bytes = stackalloc byte[16];
        (address.AddressFamily == AddressFamily.InterNetwork ? address.MapToIPv6() : address).TryWriteBytes(bytes, out _);
        if (address.AddressFamily == AddressFamily.InterNetworkV6 && !address.IsIPv4MappedToIPv6)
        {
            bytes[8..].Clear();
        }
        return System.Buffers.Binary.BinaryPrimitives.ReadUInt128BigEndian(bytes);
    }

    [LoggerMessage(EventId = 5101, Level = LogLevel.Warning, Message = "{Listener}: no room, {Open} connections are open; one from {Address} was {Outcome}; so far {Refused} were refused and {Displaced} that waited for their peers were closed")]
    private partial void LogFull(string listener, int open, long refused, long displaced, string outcome, string address);

    [LoggerMessage(EventId = 5102, Level = LogLevel.Warning, Message = "{Listener}: so far {Refused} requests were refused, of addresses with more than {PerSecond} a second")]
    private partial void LogTooMany(string listener, long refused, int perSecond);

    /// <summary>What one address has.</summary>
    internal sealed class Client
    {
        internal LinkedList<ConnectionSlot> Waiting { get; } = new();

        internal int Count { get; set; }

        internal long PaidUntil { get; set; } = long.MinValue;
    }
}
