using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Relay;

/// <summary>The listening side of a joiner that offers what it has: over TCP, to those that know the key of the swarm; within TLS where its server has a certificate.</summary>
/// <remarks>
/// It reads out of memory that belongs to the join, and later to who holds the checkpoint: they end it, or take the memory out of it, before that memory goes.
/// Whoever reads here checks every unit with the digests of the owner.
/// </remarks>
internal sealed class RelayServer : IAsyncDisposable
{
    // What is left of a read when the memory goes is worth nothing to who may read it elsewhere.
    private static readonly TimeSpan s_drainTimeout = TimeSpan.FromSeconds(1);

    private readonly MemoryRegistry _registry = new();
    private readonly PeerListener _peers;
    private readonly TransferEngine _engine;
    private IReadOnlyList<RegisteredRange> _ranges = [];

    /// <summary>Listens at once.</summary>
    /// <param name="address">The address of this host that the others reach.</param>
    /// <param name="key">What readers prove; null: nothing.</param>
    /// <param name="offer">What is offered.</param>
    /// <param name="terms">Who may come, and how many.</param>
    /// <exception cref="CheckpointEngineException">No port can be had.</exception>
    internal RelayServer(IPAddress address, AccessToken? key, RelayOffer offer, RelayTerms terms)
    {
        Offer = offer;
        var responder = new Responder(offer);
        _peers = new PeerListener(new IPEndPoint(address, 0), responder, key, terms.Logging.CreateLogger("CheckpointEngine.Relay"), new PeerListenerOptions
        {
            Limits = terms.Limits.Peers,
            MaxLeases = terms.Limits.LeasesOfAConversation,
            Security = terms.Security,
            EncryptsData = terms.Encrypts,
            Audit = terms.Audit,
        });
        try
        {
            var options = new ParameterServerOptions { Address = address, Token = key, Transport = TransportChoice.Tcp, DrainTimeout = s_drainTimeout, LoggerFactory = terms.Logging, Limits = terms.Limits, EncryptData = terms.Encrypts };
            _engine = new TransferEngine(options, key, _registry, EndpointName.FromEndPoint(_peers.LocalEndPoint), localSocket: "", rdma: null, mooncake: null, terms.Audit, terms.Security);
        }
        catch
        {
            _ = _peers.DisposeAsync().AsTask();     // its socket is closed at once; nobody has connected
            throw;
        }
    }

    /// <summary>What is offered.</summary>
    internal RelayOffer Offer { get; }

    /// <summary>The port of the handshake listener.</summary>
    internal int Port => _engine.Name.Port;

    /// <summary>Lets memory be read; until <see cref="TakeOutAsync"/>.</summary>
    internal void PutIn(IEnumerable<MemoryBuffer> buffers)
    {
        RegisteredRange[] ranges = [.. buffers.Where(static buffer => buffer.LengthBytes != 0).Select(static buffer => new RegisteredRange(buffer, (ulong)buffer.Address, (ulong)buffer.LengthBytes, null))];
        _registry.Register(ranges);
        _ranges = ranges;
    }

    /// <summary>Lets none of the memory be read any more; reads under way have ended.</summary>
    internal async Task TakeOutAsync()
    {
        IReadOnlyList<RegisteredRange> ranges = _ranges;
        _ranges = [];
        await _engine.UnregisterAsync(ranges, static _ => { }).ConfigureAwait(false);
    }

    public async ValueTask DisposeAsync()
    {
        await _peers.DisposeAsync().ConfigureAwait(false);
        await TakeOutAsync().ConfigureAwait(false);
        await _engine.DisposeAsync().ConfigureAwait(false);
    }

    private sealed class Responder(RelayOffer offer) : IPeerResponder
    {
        public string Instance { get; } = Guid.NewGuid().ToString("N");

        public DigestAlgorithm Digest => DigestAlgorithm.None;

        public PublishedMetas GetMetas(string name) => throw NoHolder();

        public Task<PublishedMetas> WaitForMetasAsync(string name, string entityTag, CancellationToken cancellationToken) => throw NoHolder();

        public HeldTensor? AcquireTensor(ulong address, ulong lengthBytes) => null;

        public IReadOnlyList<SideFile>? FindSideFiles(ulong address) => null;

        public HeldMemory AcquireMemory(ulong address, ulong lengthBytes, PeerCredentials peer) => throw NoHolder();

        public ReadLease? TryLease(ulong address, string peer) => null;

        public RelayOffer? FindOffer(UInt128 layout) => layout == offer.Layout ? offer : null;

        private static CheckpointEngineException NoHolder() => new(CheckpointError.NotFound, "a join is under way here that offers what it has to others of it, and nothing else is held");
    }
}
