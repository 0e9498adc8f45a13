using System.Buffers;
using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer.Handshake;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>The side that is read: the memory that is offered, and queue pairs, which are connected when peers ask.</summary>
/// <remarks>
/// Any number of threads. Peers may read what is registered, and nothing else; a range that is taken away is out of their reach when
/// <see cref="RdmaServedMemory.Remove"/> returns, and a read of it fails at the reader.
/// </remarks>
internal sealed partial class RdmaServing : IDisposable
{
    // There is no word of an end in Mooncake's wire: beyond so many endpoints those of long ago go, whose peers are likely gone.
    private const int MaxEndpoints = 16_384;
    private const int MaxQueuePairs = 16;
    private const int MaxConnectBacks = 4;
    private static readonly TimeSpan s_longAgo = TimeSpan.FromMinutes(10);

    // Long enough for a read of one that may read no more to be answered so: to queue pairs that are gone the reader would go on asking for eight seconds.
    private static readonly TimeSpan s_afterRevocation = TimeSpan.FromSeconds(3);

    private static readonly TimeSpan s_connectBackTimeout = TimeSpan.FromSeconds(1);       // to connect and to answer, twice; a peer gives us 5 s for all of the reply

    private readonly RdmaPlane _plane;
    private readonly EndpointName _name;
    private readonly Func<IPAddress, IPAddress, bool> _mayBeAsked;
    private readonly AuditLog? _audit;
    private readonly ILogger _logger;
    private readonly Lock _lock = new();
    private readonly Dictionary<string, Endpoint> _endpoints = new(StringComparer.Ordinal);
    private readonly HashSet<RdmaQueuePairs> _revoked = [];      // that may read no more, and are still there to say so
    private readonly SemaphoreSlim _connectBacks = new(MaxConnectBacks);
    private bool _disposed;

    private sealed class Endpoint(RdmaNic nic, RdmaQueuePairs pairs, GidTableEntry own, RdmaHandshake asked, RdmaGrant? grant, long since)
    {
        internal RdmaNic Nic { get; } = nic;

        internal RdmaQueuePairs Pairs { get; } = pairs;

        internal GidTableEntry Own { get; } = own;

        internal RdmaHandshake Asked { get; } = asked;

        /// <summary>What it lives with; null: it was not asked for a proof.</summary>
        internal RdmaGrant? Grant { get; } = grant;

        internal long Since { get; } = since;
    }

    /// <param name="plane">The devices.</param>
    /// <param name="name">The segment's name, as NIC paths have it.</param>
    /// <param name="mayBeAsked">Whether a peer at the first address may make this process connect to the second.</param>
    /// <param name="audit">Told of those that are refused; null for nobody.</param>
    /// <param name="logger">Told of connections.</param>
    internal RdmaServing(RdmaPlane plane, EndpointName name, Func<IPAddress, IPAddress, bool> mayBeAsked, AuditLog? audit, ILogger logger)
    {
        Grants = new RdmaGrants(EndAll);
        _audit = audit;
        _mayBeAsked = mayBeAsked;
        _plane = plane;
        _name = name;
        _logger = logger;
        Memory = new RdmaServedMemory(new RdmaSourceRegistrar(plane.Nics), logger);
        plane.Changed += DeviceChanged;
    }

    /// <summary>What peers may read.</summary>
    internal RdmaServedMemory Memory { get; }

    /// <summary>Who may connect because of a lease.</summary>
    internal RdmaGrants Grants { get; }

    /// <summary>Answers a Connection message: makes queue pairs and connects them to the asker's, or says why not.</summary>
    /// <param name="output">Gets a handshake object.</param>
    /// <param name="request">The message.</param>
    /// <param name="remote">Who asks.</param>
    /// <param name="needsProof">Whether only who has a lease may connect.</param>
    internal void WriteReply(IBufferWriter<byte> output, ReadOnlySequence<byte> request, IPEndPoint remote, bool needsProof)
    {
        try
        {
            RdmaHandshake asked = RdmaHandshake.Read(request.ToArray());
            RdmaGrant? grant = needsProof || asked.Proof is not null ? Grants.Check(asked) : null;
            RdmaHandshake answer = Reply(asked, grant, remote);
            (grant is null ? answer : answer with { Proof = RdmaProof.Sign(grant.Key, RdmaProof.Purpose.Answer, asked.Proof!.Sequence, answer, asked.Proof) }).Write(output);
        }
        catch (CheckpointEngineException refusal)
        {
            EngineMetrics.Refused(Refusal.Rdma, refusal.Error == CheckpointError.Refused ? Refusal.Token : Refusal.Connection);
            if (refusal.Error == CheckpointError.Refused)
            {
                _audit?.Refused("handshake", remote.ToString(), $"connect over RDMA: {refusal.Message}");
            }
            LogRefused(remote, refusal.Message);
            ConnectionReply.WriteRefusal(output, refusal.Message);
        }
    }

    public void Dispose()
    {
        Endpoint[] endpoints;
        RdmaQueuePairs[] revoked;
        _plane.Changed -= DeviceChanged;
        lock (_lock)
        {
            _disposed = true;
            endpoints = [.. _endpoints.Values];
            revoked = [.. _revoked];
            _endpoints.Clear();
            _revoked.Clear();
        }
        Array.ForEach(endpoints, static endpoint => endpoint.Pairs.Dispose());
        Array.ForEach(revoked, static pairs => pairs.Dispose());
        Memory.Dispose();
    }

    // What a lease has connected.
    private void EndAll(RdmaGrant grant, bool isRevoked)
    {
        var gone = new List<RdmaQueuePairs>();
        lock (_lock)
        {
            foreach ((string key, Endpoint endpoint) in _endpoints)
            {
                if (endpoint.Grant == grant)
                {
                    _endpoints.Remove(key);         // the one thing that may be done to a dictionary that is being walked
                    gone.Add(endpoint.Pairs);
                }
            }
        }
        foreach (RdmaQueuePairs pairs in gone)
        {
            if (!isRevoked || !pairs.TryForbidReads() || !TryLinger(pairs))
            {
                pairs.Dispose();
            }
        }
    }

    private bool TryLinger(RdmaQueuePairs pairs)
    {
        lock (_lock)
        {
            if (_disposed)
            {
                return false;
            }
            _revoked.Add(pairs);
        }
        _ = Task.Delay(s_afterRevocation).ContinueWith(_ =>
        {
            lock (_lock)
            {
                if (!_revoked.Remove(pairs))
                {
                    return;
                }
            }
            pairs.Dispose();
        }, TaskScheduler.Default);
        return true;
    }

    // What goes out under a GID that is no more reaches nobody: peers come to make new endpoints, and learn the new one.
    private void DeviceChanged(RdmaNic nic)
    {
        var gone = new List<RdmaQueuePairs>();
        lock (_lock)
        {
            foreach (string key in _endpoints.Keys.ToArray())
            {
                if (_endpoints[key] is { } endpoint && endpoint.Nic == nic && !nic.Has(endpoint.Own))
                {
                    _endpoints.Remove(key);
                    gone.Add(endpoint.Pairs);
                }
            }
        }
        gone.ForEach(static pairs => pairs.Dispose());
        Memory.DevicesChanged();
    }

    private RdmaHandshake Reply(RdmaHandshake asked, RdmaGrant? grant, IPEndPoint remote)
    {
        string key = $"{(grant is null ? remote.Address : grant.Key.Number)}\n{asked.PeerNicPath}\n{asked.LocalNicPath}";      // nobody ends another's
        RdmaQueuePairs? ended = null;
        lock (_lock)
        {
            if (_endpoints.TryGetValue(key, out Endpoint? known) && known.Asked.QueuePairs.AsSpan().SequenceEqual(asked.QueuePairs))
            {
                if (asked.IsEnd)
                {
                    _endpoints.Remove(key);
                    ended = known.Pairs;
                }
                else if (known.Asked.Proof?.Sequence == asked.Proof?.Sequence)
                {
                    return asked.ReadyAck == true ? new RdmaHandshake() : Accepted(asked, known.Pairs, NicOf(asked.PeerNicPath), known.Own);
                }
            }
        }
        if (asked.IsEnd)
        {
            ended?.Dispose();
            return new RdmaHandshake();
        }
        if (asked.ReadyAck == true)
        {
            ThrowHelper.Throw(CheckpointError.NotFound, "an acknowledgement for an endpoint that is not there, or has other queue pairs");
        }
        if (grant is not null && (grant.IsUsed(asked.Proof!.Sequence) || asked.LocalGid.Length == 0))
        {
            ThrowHelper.Throw(CheckpointError.Refused, "the message was answered before, or has no local_gid: each connection needs one of its own");
        }
        RdmaNic nic = NicOf(asked.PeerNicPath);
        GidTableEntry[] candidates = nic.Gids;
        if (nic.Failure is not null || candidates.Length == 0)
        {
            ThrowHelper.Throw(CheckpointError.Unreachable, $"device {nic.Name} cannot be used now: {nic.Failure ?? "it has no GID"}");
        }
        if (asked.QueuePairs.Length is 0 or > MaxQueuePairs || asked.LocalNicPath.Length == 0)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"the message has {asked.QueuePairs.Length} qp_num, of which there may be 1 to {MaxQueuePairs}, or no local_nic_path");
        }
        Span<byte> gid = stackalloc byte[GidTableEntry.GidLength];
        uint lid = asked.LocalLid;
        if (asked.LocalGid.Length == 0)
        {
            (string text, lid) = FetchAddress(asked.LocalNicPath, remote);
            asked = asked with { LocalGid = text };
        }
        if (!RdmaHandshake.TryParseGid(asked.LocalGid, gid))
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, "its local_gid is none: 16 two-digit hexadecimal bytes joined by colons");
        }
        var pairs = new RdmaQueuePairs(nic, asked.QueuePairs.Length, reads: false, isRead: true);
        Endpoint kept;
        try
        {
            GidTableEntry own = Connect(pairs, candidates, asked, gid, lid);
            kept = Keep(key, new Endpoint(nic, pairs, own, asked, grant, Environment.TickCount64));
        }
        catch
        {
            pairs.Dispose();
            throw;
        }
        if (kept.Pairs != pairs)
        {
            pairs.Dispose();
        }
        LogConnected(nic.Name, HandshakeJson.Printable(asked.LocalNicPath), pairs.Numbers.Length);
        return Accepted(asked, kept.Pairs, nic, kept.Own);
    }

    // The first of our GIDs from which there is a way to the peer's.
    private static GidTableEntry Connect(RdmaQueuePairs pairs, GidTableEntry[] candidates, RdmaHandshake asked, ReadOnlySpan<byte> gid, uint lid)
    {
        for (int i = 0; ; i++)
        {
            try
            {
                pairs.Connect(candidates[i], asked.QueuePairs, gid, lid, HandshakeJson.Printable(asked.LocalNicPath));
                return candidates[i];
            }
            catch (CheckpointEngineException failure) when (i + 1 < candidates.Length && RdmaQueuePairs.IsOfGid(failure))
            {
                // The queue pairs are where they were.
            }
        }
    }

    // Gives what it was given, or what another answer to the same message has made meanwhile.
    private Endpoint Keep(string key, Endpoint made)
    {
        var gone = new List<RdmaQueuePairs>();
        int most = Math.Min(MaxEndpoints, Math.Max(64, _plane.Nics.Min(nic => nic.Limits.MaxQueuePairs) / 4));
        try
        {
            lock (_lock)
            {
                // Under the lock that the end of a lease takes next: it is seen here, or sees what is kept.
                if (made.Grant is RdmaGrant grant && (!Grants.IsLive(grant) || !grant.TryUse(made.Asked.Proof!.Sequence)))
                {
                    return _endpoints.TryGetValue(key, out Endpoint? same) && same.Asked.Proof?.Sequence == made.Asked.Proof!.Sequence
                        ? same
                        : ThrowHelper.Throw<Endpoint>(CheckpointError.Refused, "the lease that it is for has ended meanwhile, or the message was answered before; join again");
                }
                if (_endpoints.Remove(key, out Endpoint? old))
                {
                    gone.Add(old.Pairs);      // the peer has begun anew
                }
                if (_endpoints.Count >= most)
                {
                    ForgetThoseOfLongAgo(made.Since, gone);
                }
                if (_disposed || _endpoints.Count >= most)
                {
                    ThrowHelper.Throw(CheckpointError.Busy, "too many peers are connected over RDMA");
                }
                _endpoints.Add(key, made);
                return made;
            }
        }
        finally
        {
            gone.ForEach(static old => old.Dispose());
        }
    }

    // Under the lock. Those of a lease are of use until it ends.
    private void ForgetThoseOfLongAgo(long now, List<RdmaQueuePairs> gone)
    {
        foreach ((string key, Endpoint endpoint) in _endpoints)
        {
            if (endpoint.Grant is null && now - endpoint.Since > s_longAgo.TotalMilliseconds)
            {
                _endpoints.Remove(key);
                gone.Add(endpoint.Pairs);
            }
        }
    }

    private static RdmaHandshake Accepted(RdmaHandshake asked, RdmaQueuePairs pairs, RdmaNic nic, GidTableEntry own) => new()
    {
        LocalNicPath = asked.PeerNicPath,
        PeerNicPath = asked.LocalNicPath,
        QueuePairs = pairs.Numbers,
        LocalGid = own.WireText,
        LocalLid = (uint)nic.Port.Lid,
        ReadyAck = asked.ReadyAck is null ? null : false,
    };

    private RdmaNic NicOf(string path)
    {
        string server = $"{_name}@";
        return (path.StartsWith(server, StringComparison.Ordinal) ? Array.Find(_plane.Nics, nic => path.AsSpan(server.Length).SequenceEqual(nic.Name)) : null)
            ?? ThrowHelper.Throw<RdmaNic>(CheckpointError.NotFound, $"peer_nic_path '{HandshakeJson.Printable(path)}' names no device here; this is {_name} with {string.Join(", ", _plane.Nics.Select(nic => nic.Name))}");
    }

    // Mooncake before v0.3.11 does not say its GID: it is asked at the port it names, at the address it came from; a host of several addresses may listen
    // at another, which it names. A stranger is not let send us anywhere.
    private (string Gid, uint Lid) FetchAddress(string nicPath, IPEndPoint remote)
    {
        int at = nicPath.LastIndexOf('@');
        if (at <= 0 || !EndpointName.TryParse(nicPath.AsSpan(0, at), out EndpointName server))
        {
            return ThrowHelper.Throw<(string, uint)>(CheckpointError.InvalidData, "the message has no local_gid, and its local_nic_path is not host:port@device");
        }
        var name = new EndpointName(remote.Address.ToString(), server.Port);
        SegmentDescriptor descriptor;
        if (!_connectBacks.Wait(0))
        {
            ThrowHelper.Throw(CheckpointError.Busy, "too many peers without local_gid at once");
        }
        try
        {
            descriptor = FetchDescriptor(name);
        }
        catch (CheckpointEngineException) when (IPAddress.TryParse(server.Host, out IPAddress? named) && !named.Equals(remote.Address) && _mayBeAsked(remote.Address, named))
        {
            descriptor = FetchDescriptor(name = server);
        }
        finally
        {
            _connectBacks.Release();
        }
        SegmentDevice device = Array.Find(descriptor.Devices, device => nicPath.AsSpan(at + 1).SequenceEqual(device.Name));
        return device.Name is null
            ? ThrowHelper.Throw<(string, uint)>(CheckpointError.NotFound, $"device {HandshakeJson.Printable(nicPath.AsSpan(at + 1))} is not in the descriptor at {name}")
            : (device.Gid, device.Lid);
    }

    private static SegmentDescriptor FetchDescriptor(EndpointName name)
    {
        var options = new HandshakeClientOptions { ConnectTimeout = s_connectBackTimeout, ReplyTimeout = s_connectBackTimeout, NullRetries = 0 };
        return HandshakeClient.FetchDescriptorAsync(name, default, options).AsTask().GetAwaiter().GetResult();
    }

    [LoggerMessage(EventId = 2301, Level = LogLevel.Information, Message = "rdma: {Device} connected to {Peer} with {Count} queue pairs")]
    private partial void LogConnected(string device, string peer, int count);

    [LoggerMessage(EventId = 2302, Level = LogLevel.Warning, Message = "rdma: {Remote} asked for a connection and was refused: {Reason}")]
    private partial void LogRefused(IPEndPoint remote, string reason);
}
