using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Join;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Relay;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Mooncake;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine;

/// <summary>
/// Holds checkpoints in registered memory, tells strangers where they are, and reads other holders' checkpoints into its own memory.
/// </summary>
/// <remarks>
/// Any number of threads. <see cref="StartAsync"/> makes it listen; a server that only joins, and serves nobody, need not be started.
/// <see cref="DisposeAsync"/> ends it and frees all that it holds.
/// </remarks>
public sealed partial class ParameterServer : IAsyncDisposable
{
    // Of an HTTP server beside this one, and of what is held.
    private const int DescriptorsBeside = 2048;

    private readonly Lock _lock = new();
    private readonly Dictionary<string, CheckpointRecord> _records = new(StringComparer.Ordinal);
    private readonly ILogger _logger;
    private readonly AuditLog _audit;
    private IConnectionSecurity? _certificates;          // once needed; under the lock
    private readonly MemoryRegistry _registry = new();
    private readonly MemoryPool _pool = new();
    private readonly HashSet<Task> _retiring = [];       // freeing what was replaced; under the lock
    private PeerListener? _peers;
    private PeerListener? _localPeers;
    private TransferEngine? _engine;
    private MooncakeEngine? _mooncake;
    private readonly Lock _rdmaLock = new();
    private RdmaPlane? _rdma;
    private string? _whyNoRdma;
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _leases;        // that are out
    private readonly byte[]? _swarmKey;                  // what joiners prove to each other, where this server demands something of them too
    private readonly HashSet<JoinRelay> _relays = [];    // of joins that have ended; under the lock
    private bool _disposed;

    /// <summary>Makes a server that does not listen yet.</summary>
    public ParameterServer(ParameterServerOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        Options = options;
        options.Limits.ThrowIfUnfit();
        _logger = options.LoggerFactory.CreateLogger("CheckpointEngine");
        _audit = new AuditLog(options.LoggerFactory);
        _swarmKey = options.Token is not null || options.RequireLease || options.PeerTls?.ClientCaFile is not null ? KernelRandom.GetBytes(SwarmAnswer.KeyBytes) : null;
        LaneKey = options.RequireLease ? KernelRandom.GetBytes(LeaseAnswer.LaneKeyBytes) : null;
        EngineMetrics.Watch(this);
    }

    /// <summary>The options it was made with.</summary>
    public ParameterServerOptions Options { get; }

    /// <summary>This owner's rank.</summary>
    public int Rank => Options.Rank;

    /// <summary><c>host:port</c> of the handshake listener, as metas tell it.</summary>
    /// <exception cref="InvalidOperationException">The server was not started.</exception>
    public string P2pStoreAddress => Engine.Name.ToString();

    /// <summary><c>ce://host:port</c> of the peer service, or <c>ce+tls://host:port</c>; a name behind it is a metas URL.</summary>
    /// <exception cref="InvalidOperationException">The server was not started.</exception>
    public string PeerUrl => $"{(Options.PeerTls is null ? "ce" : "ce+tls")}://{PeerName}";

    /// <summary>Names of the checkpoints held here or known by loaded metas, sorted.</summary>
    public IReadOnlyList<string> CheckpointNames
    {
        get
        {
            lock (_lock)
            {
                return [.. _records.Where(record => record.Value.IsVisible).Select(record => record.Key).Order(StringComparer.Ordinal)];
            }
        }
    }

    /// <summary>What tells this server from every other, one at the same address after a restart included.</summary>
    internal string Epoch { get; } = Convert.ToHexStringLower(KernelRandom.GetBytes(16));

    /// <summary>What proves, on a data connection, that its peer has a lease; null when none is required.</summary>
    internal byte[]? LaneKey { get; }

    /// <summary>The generation that is held under a name; 0 when none is, or it is being changed.</summary>
    internal long GenerationOf(string name)
    {
        lock (_lock)
        {
            return _records.GetValueOrDefault(name)?.Held is { IsUpdating: false } held ? held.Generation : 0;
        }
    }

    /// <summary>What peers may read.</summary>
    internal MemoryRegistry Registry => _registry;

    private TransferEngine Engine => _engine ?? throw new InvalidOperationException("the server was not started");

    private EndpointName PeerName => EndpointName.FromEndPoint((_peers ?? throw new InvalidOperationException("the server was not started")).LocalEndPoint);

    /// <summary>Starts the listeners; once.</summary>
    /// <exception cref="CheckpointEngineException">The address or port cannot be had.</exception>
    /// <exception cref="InvalidOperationException"><see cref="ParameterServerOptions.Address"/> is a wildcard, or <see cref="ParameterServerOptions.LocalSocket"/> no address of a Unix socket.</exception>
    public async Task StartAsync(CancellationToken cancellationToken = default)
    {
        cancellationToken.ThrowIfCancellationRequested();
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (Options.Address.Equals(IPAddress.Any) || Options.Address.Equals(IPAddress.IPv6Any))
        {
            throw new InvalidOperationException("the address to announce is 'any', which no peer can connect to; give one of this host's own addresses");
        }
        if (Options.RequireLease && Options.PlainPeers is { } plain && plain != PlainPeers.None)
        {
            throw new InvalidOperationException("a lease is required, and peers are to read without one: either RequireLease or PlainPeers");
        }
        if (Options.EncryptData && Options.PeerTls is null)
        {
            throw new InvalidOperationException("data is to be encrypted, and there is no certificate to do it with: EncryptData needs PeerTls");
        }
        if (Options.EncryptData && (Options.PlainPeers is { } inPlain && inPlain != PlainPeers.None || Options.Transport is TransportChoice.Rdma or TransportChoice.Mooncake))
        {
            throw new InvalidOperationException("data is to be encrypted, which neither plain peers nor RDMA nor Mooncake's library can: either EncryptData or those");
        }
        if (Options.LocalSocket is { } socket && !LocalSocketName.IsValid(socket))
        {
            throw new InvalidOperationException($"'{socket}' is no address of a Unix socket: an absolute path or @name, at most 107 bytes");
        }
        if (_engine is not null)
        {
            return;
        }
        _ = DescriptorTable.ReserveAsync((long)Options.Limits.Handshake.Connections + Options.Limits.Data.Connections + Options.Limits.Peers.Connections + DescriptorsBeside);
        var responder = new PeerResponder(this);
        ILogger peerLogger = Options.LoggerFactory.CreateLogger("CheckpointEngine.Peers");
        IConnectionSecurity? security = OpenSecurity();
        var peerOptions = new PeerListenerOptions { Limits = Options.Limits.Peers, MaxLeases = Options.Limits.LeasesOfAConversation, LocalPeers = Options.LocalPeers, Security = security, EncryptsData = Options.EncryptData, Audit = _audit };
        _peers = new PeerListener(new IPEndPoint(Options.Address, 0), responder, Options.Token, peerLogger, peerOptions);
        try
        {
            string localSocket = Options.Transport is not (TransportChoice.Auto or TransportChoice.Local) ? "" : Options.LocalSocket ?? LocalSocketName.MakeUnique();
            if (localSocket.Length != 0)
            {
                _localPeers = new PeerListener(localSocket, responder, Options.Token, peerLogger, peerOptions);
            }
            _mooncake = Options.Transport == TransportChoice.Mooncake ? await StartMooncakeAsync(cancellationToken).ConfigureAwait(false) : null;
            _engine = new TransferEngine(Options, LaneKey is null ? Options.Token : AccessToken.FromKey(LaneKey), _registry, PeerName, localSocket, OpenRdmaForServing(), _mooncake, _audit, security);
        }
        catch
        {
            _mooncake?.Dispose();
            _mooncake = null;
            await StopPeersAsync().ConfigureAwait(false);
            throw;
        }
        RegisterJoined();
        LogStarted(P2pStoreAddress, PeerUrl);
    }

    /// <summary>The checkpoint held here under <paramref name="name"/>, or null.</summary>
    public HeldCheckpoint? FindCheckpoint(string name)
    {
        lock (_lock)
        {
            return _records.GetValueOrDefault(name)?.Held?.Checkpoint;
        }
    }

    /// <summary>Reads the checkpoint that <paramref name="metas"/> describe. Nothing is visible before all of it is here and checked.</summary>
    /// <param name="metas">Who holds what.</param>
    /// <param name="options">What to read and where to put it.</param>
    /// <param name="progress">Told the state about twenty times a second.</param>
    /// <param name="cancellationToken">Ends the join; what was allocated is released.</param>
    /// <exception cref="CheckpointEngineException">Owner, range and reason; what was allocated has been released.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public Task<JoinReport> JoinAsync(CheckpointMetas metas, JoinOptions options, IProgress<JoinProgress>? progress = null, CancellationToken cancellationToken = default)
        => JoinAsync(metas, options, null, progress, cancellationToken);

    private async Task<JoinReport> JoinUnobservedAsync(CheckpointMetas metas, JoinOptions options, JoinArrival? arrival, IProgress<JoinProgress>? progress, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(metas);
        ArgumentNullException.ThrowIfNull(options);
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentOutOfRangeException.ThrowIfNegative(options.Lanes, nameof(options));
        CheckDestination(options);
        bool hold = options.Destination == JoinDestinationKind.Memory;
        if (hold)
        {
            Reserve(options.CheckpointName, options.Replace);
        }
        using EarlierVersion? earlier = options.EarlierCheckpoint is null ? null : UseEarlier(options.EarlierCheckpoint);
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        JoinOutcome? outcome = null;
        try
        {
            deadline.CancelAfter(options.Timeout);
            using var operation = new JoinOperation(metas, options, Options, TryOpenRdma, arrival, earlier) { MakeRelayTerms = MakeRelayTerms };
            outcome = await Task.Run(() => operation.RunAsync(progress, deadline.Token), deadline.Token).ConfigureAwait(false);
            if (outcome.Checkpoint is not null)
            {
                await PublishAsync(outcome.Checkpoint, outcome.Digests, "join", replace: options.Replace, relay: outcome.Relay).ConfigureAwait(false);
            }
            if (outcome.Relay is not null)
            {
                await KeepAsync(outcome.Relay).ConfigureAwait(false);
            }
            return outcome.Report;
        }
        catch (Exception failure)
        {
            if (outcome?.Relay is JoinRelay relay)
            {
                await relay.DisposeAsync().ConfigureAwait(false);
            }
            if (hold)
            {
                Unreserve(options.CheckpointName);
            }
            if (failure is OperationCanceledException && !cancellationToken.IsCancellationRequested)
            {
                throw new CheckpointEngineException(CheckpointError.Timeout, $"join '{options.CheckpointName}': not done within {options.Timeout.TotalSeconds:0.#} s; give it more time (--timeout) or look what slows the owners");
            }
            throw;
        }
    }

    // Who takes it away waits until the join has copied from it, which it does at its beginning: it is not cut.
    private EarlierVersion? UseEarlier(string name)
    {
        lock (_lock)
        {
            return _records.GetValueOrDefault(name)?.Held is { IsUpdating: false } held && held.Uses.TryEnter(out _) ? new EarlierVersion(held.Checkpoint, held.Uses) : null;
        }
    }

    /// <summary>Connects to the owners as a join would, and tells which way their bytes would come; moves none.</summary>
    /// <param name="metas">Who holds what.</param>
    /// <param name="options">What would be read, and where it would go.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException">An owner cannot be reached, or refuses.</exception>
    public async Task<IReadOnlyList<OwnerPlane>> ProbeAsync(CheckpointMetas metas, JoinOptions options, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(metas);
        ArgumentNullException.ThrowIfNull(options);
        ObjectDisposedException.ThrowIf(_disposed, this);
        CheckDestination(options);
        using var operation = new JoinOperation(metas, options, Options, TryOpenRdma);
        return await Task.Run(() => operation.ProbeAsync(cancellationToken), cancellationToken).ConfigureAwait(false);
    }

    /// <summary>Reads the files of <see cref="ParameterServerOptions.PeerTls"/> now, which is otherwise done within two seconds of a change.</summary>
    /// <returns>Whether they could be used; if not, which is logged, those that were read before stay. True without TLS.</returns>
    public bool ReloadCertificates() => ReloadCertificates(out _);

    internal bool ReloadCertificates(out CheckpointEngineException? unusable)
    {
        unusable = null;
        return _certificates?.Reload(out unusable) ?? true;
    }

    /// <summary>Frees every checkpoint and stops listening, after joins and reads under way have ended or <see cref="ParameterServerOptions.DrainTimeout"/> has passed.</summary>
    public async ValueTask DisposeAsync()
    {
        HeldEntry[] entries;
        Task[] retiring;
        JoinRelay[] relays;
        lock (_lock)
        {
            if (_disposed)
            {
                return;
            }
            _disposed = true;
            LiveServers.Remove(this);
            entries = [.. _records.Values.Select(record => record.Held).OfType<HeldEntry>()];
            _records.Clear();
            TellChange();
            retiring = [.. _retiring];
            relays = [.. _relays];
        }
        await Task.WhenAll(entries.Select(entry => entry.Uses.CloseAsync(Options.DrainTimeout))).ConfigureAwait(false);      // joins under way may end
        await Task.WhenAll(relays.Select(static relay => relay.DisposeAsync().AsTask())).ConfigureAwait(false);
        await StopPeersAsync().ConfigureAwait(false);      // before anything is freed: a conversation may be hashing it
        await Task.WhenAll([.. retiring, .. entries.Select(FreeAsync)]).ConfigureAwait(false);
        _pool.Dispose();
        if (_engine is not null)
        {
            await _engine.DisposeAsync().ConfigureAwait(false);
        }
        _mooncake?.Dispose();
        if (_rdma is not null)
        {
            await _rdma.DisposeAsync().ConfigureAwait(false);
        }
    }

    // Once, for whatever listens: the server, and relays of its joins.
    private IConnectionSecurity? OpenSecurity()
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            return _certificates ??= Options.PeerTls?.Open(Options.LoggerFactory.CreateLogger("CheckpointEngine.Peers"));
        }
    }

    private Task<MooncakeEngine> StartMooncakeAsync(CancellationToken cancellationToken)
    {
        if (Options.AllowedPlainPeers != PlainPeers.All)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported,
                "serve through Mooncake's library: it serves whoever reaches its ports and knows neither tokens nor addresses; say so with --plain-peers all, or take another --transport");
        }
        return MooncakeEngine.StartAsync(Options.MooncakeLibrary, Options.Address, Options.LoggerFactory.CreateLogger("CheckpointEngine.Transfer.Mooncake"), cancellationToken);
    }

    // What joins brought before there was anybody to serve it to. Who asks for it before it can be read is told that it is busy.
    private void RegisterJoined()
    {
        HeldEntry[] entries;
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_lock)
        {
            entries = [.. _records.Values.Select(record => record.Held).OfType<HeldEntry>().Where(entry => entry.Ranges.Count == 0)];
            foreach (HeldEntry entry in entries)
            {
                entry.IsUpdating = true;
                entry.Changing = done.Task;
            }
        }
        try
        {
            foreach (HeldEntry entry in entries)
            {
                entry.Register(_registry);
                entry.StartHashing();
                lock (_lock)
                {
                    entry.IsUpdating = false;
                }
            }
        }
        finally
        {
            done.SetResult();
        }
    }

    private RdmaPlane? OpenRdmaForServing()
    {
        if (Options.Transport is not (TransportChoice.Auto or TransportChoice.Rdma))
        {
            return null;
        }
        string? whyNone = Options.EncryptData ? "what leaves this host is to be encrypted, and RDMA cannot do that" : null;
        if ((whyNone is not null || TryOpenRdma(out whyNone) is null) && Options.Transport == TransportChoice.Rdma)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported, $"serve over RDMA: {whyNone}");
        }
        if (Options.EncryptData)
        {
            LogNoRdma(whyNone!);
            return null;
        }
        return _rdma;       // devices that carry nothing now may come up
    }

    // The devices, if one of them can be used now.
    private RdmaPlane? TryOpenRdma(out string? whyNone)
    {
        RdmaPlane? rdma = OpenRdma(out whyNone);
        whyNone = rdma is null ? whyNone : rdma.WhyNone;
        return whyNone is null ? rdma : null;
    }

    // Once, when RDMA is first wanted; joins and serving share what is open.
    private RdmaPlane? OpenRdma(out string? whyNone)
    {
        lock (_rdmaLock)
        {
            if (_rdma is null && _whyNoRdma is null)
            {
                _rdma = RdmaPlane.TryOpen(Options.RdmaDevices, Options.LoggerFactory.CreateLogger("CheckpointEngine.Transfer.Rdma"), out _whyNoRdma);
            }
            whyNone = _whyNoRdma;
            return _rdma;
        }
    }

    private async Task StopPeersAsync()
    {
        if (_localPeers is not null)
        {
            await _localPeers.DisposeAsync().ConfigureAwait(false);
        }
        if (_peers is not null)
        {
            await _peers.DisposeAsync().ConfigureAwait(false);
        }
        _peers = _localPeers = null;
        _certificates?.Dispose();
        _certificates = null;
    }

    private static void CheckDestination(JoinOptions options)
    {
        switch (options.Destination)
        {
            case JoinDestinationKind.Tensors:
                ArgumentNullException.ThrowIfNull(options.Tensors, nameof(options));
                options.Tensors.ThrowIfUnfit();
                break;
            case JoinDestinationKind.Buckets:
                ArgumentNullException.ThrowIfNull(options.OnBucket, nameof(options));
                ArgumentOutOfRangeException.ThrowIfNegativeOrZero(options.BucketBytes, nameof(options));
                ArgumentOutOfRangeException.ThrowIfNotEqual(options.Repeat, 1, nameof(options));
                break;
            case JoinDestinationKind.Directory:
                ArgumentNullException.ThrowIfNull(options.DirectoryPath, nameof(options));
                break;
        }
    }

    [LoggerMessage(EventId = 1001, Level = LogLevel.Information, Message = "listening: {P2pStoreAddress}, {PeerUrl}")]
    private partial void LogStarted(string p2pStoreAddress, string peerUrl);

    [LoggerMessage(EventId = 1003, Level = LogLevel.Information, Message = "RDMA is off: {Reason}")]
    private partial void LogNoRdma(string reason);

    [LoggerMessage(EventId = 1002, Level = LogLevel.Information, Message = "loaded metas of '{Checkpoint}': {Owners} owners")]
    private partial void LogLoaded(string checkpoint, int owners);
}
