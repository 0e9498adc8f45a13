using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Join;

/// <summary>What a join knows of one owner: how its memory is read, and the conversation with it if it is one of ours.</summary>
internal sealed class OwnerLink : IDisposable
{
    private static readonly TimeSpan s_connectTimeout = TimeSpan.FromSeconds(5);

    // An owner that registers each tensor apart has a descriptor beyond the 1 MiB that Mooncake takes by default.
    private const int MaxDescriptorBytes = 128 << 20;

    private readonly TcpLaneTarget _target;

    private OwnerLink(MetasOwner owner, TcpLaneTarget target, PeerClient? peer)
    {
        Owner = owner;
        _target = target;
        Peer = peer;
    }

    internal MetasOwner Owner { get; }

    /// <summary>The conversation; null with a plain Mooncake peer.</summary>
    internal PeerClient? Peer { get; }

    /// <summary>The digest that the owner gives for its tensors.</summary>
    internal DigestAlgorithm Digest => Peer?.Digest ?? DigestAlgorithm.None;

    /// <summary>The generation that the owner held when the join began; 0 for a plain owner.</summary>
    internal long Generation { get; private set; }

    /// <summary>Asks which generation the owner holds at an address before anything is read.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Refused"/>: it holds nothing there.</exception>
    internal async Task BeginAsync(ulong address, CancellationToken cancellationToken)
    {
        if (Peer is not null && (Generation = await Peer.GetGenerationAsync(address, cancellationToken).ConfigureAwait(false)) == 0)
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"read from {Name}: it does not hold what the metas say, or is updating it; fetch the metas anew");
        }
    }

    /// <summary>Checks, when everything is read, that the owner still holds the generation that it held then.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Superseded"/>: what was read may be of two generations.</exception>
    internal async Task EndAsync(ulong address, CancellationToken cancellationToken)
    {
        if (Peer is not null && await Peer.GetGenerationAsync(address, cancellationToken).ConfigureAwait(false) != Generation)
        {
            ThrowHelper.Throw(CheckpointError.Superseded,
                $"read from {Name}: the owner has changed or taken away the checkpoint since the join began; fetch the metas anew and join again");
        }
    }

    /// <summary>The owner, for messages.</summary>
    internal string Name => $"rank {Owner.Rank} at {Owner.P2pStoreAddress}";

    /// <summary>Whether the owner runs on this host.</summary>
    internal bool IsSameHost => Peer is not null
        ? HostIdentity.BootId.Length != 0 && Peer.Server.HostId == HostIdentity.BootId
        : Array.TrueForAll(_target.EndPoints, endPoint => IPAddress.IsLoopback(endPoint.Address));

    /// <summary>The name of the transport, as reports tell it.</summary>
    internal string TransportName { get; } = SegmentDescriptor.TcpProtocol;

    /// <summary>Asks the owner what it is, and begins a conversation if it is one of ours.</summary>
    /// <exception cref="CheckpointEngineException">It cannot be reached, refuses, or offers no transport that we have.</exception>
    internal static async Task<OwnerLink> ConnectAsync(MetasOwner owner, AccessToken? token, TimeSpan stallTimeout, CancellationToken cancellationToken)
    {
        EndpointName name = EndpointName.Parse(owner.P2pStoreAddress);
        var handshake = new HandshakeClientOptions { ReplyTimeout = stallTimeout, MaxFrameBytes = MaxDescriptorBytes };
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(name, default, handshake, cancellationToken).ConfigureAwait(false);
        descriptor.Validate();
        if (descriptor.Protocol != SegmentDescriptor.TcpProtocol)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported,
                $"read from rank {owner.Rank} at {name}: it offers {descriptor.Protocol} only, and this build reads over tcp; start it with MC_FORCE_TCP=1");
        }
        PeerClient? peer = null;
        if (descriptor.Engine is { } engine && engine.Peer.Length != 0)
        {
            // The port is the peer's word, the host is the one we opened: a descriptor cannot send us elsewhere.
            var service = new EndpointName(name.Host, EndpointName.Parse(engine.Peer).Port);
            peer = await PeerClient.ConnectAsync(service, token, stallTimeout, cancellationToken).ConfigureAwait(false);
        }
        try
        {
            EndpointName data = descriptor.GetTcpDataEndpoint(name);
            IPAddress[] addresses = IPAddress.TryParse(data.Host, out IPAddress? address)
                ? [address]
                : await Dns.GetHostAddressesAsync(data.Host, cancellationToken).ConfigureAwait(false);
            return new OwnerLink(owner, new TcpLaneTarget(
                [.. addresses.Take(16).Select(candidate => new IPEndPoint(candidate, data.Port))],
                $"rank {owner.Rank} at {name}",
                descriptor.TcpProtoVersion,
                IsOurs: peer is not null,
                peer is { Server.TokenRequired: true } ? token : null,
                s_connectTimeout,
                stallTimeout), peer);
        }
        catch
        {
            peer?.Dispose();
            throw;
        }
    }

    /// <summary>A lane that is yet to be connected; the caller disposes it.</summary>
    internal IReadLane CreateLane() => new TcpReadLane(_target);

    public void Dispose() => Peer?.Dispose();
}
