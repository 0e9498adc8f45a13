using System.Buffers;
using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Peers;

/// <summary>What a <see cref="PeerListener"/> answers from.</summary>
internal interface IPeerResponder
{
    /// <summary>What tells this server from every other: random, and the same at all its addresses.</summary>
    string Instance { get; }

    /// <summary>The digest that is made here.</summary>
    DigestAlgorithm Digest { get; }

    /// <summary>The metas of a checkpoint.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>.</exception>
    PublishedMetas GetMetas(string name);

    /// <summary>The metas of a checkpoint, once their entity tag is another than <paramref name="entityTag"/>.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>.</exception>
    /// <exception cref="OperationCanceledException">The wait was ended.</exception>
    Task<PublishedMetas> WaitForMetasAsync(string name, string entityTag, CancellationToken cancellationToken);

    /// <summary>The held tensor that starts at <paramref name="address"/> and has that many bytes, kept from being freed until it is disposed; null when there is none.</summary>
    HeldTensor? AcquireTensor(ulong address, ulong lengthBytes);

    /// <summary>The side files of the checkpoint that <paramref name="address"/> belongs to; null when there is none.</summary>
    IReadOnlyList<SideFile>? FindSideFiles(ulong address);

    /// <summary>How a process of this host can reach the registered memory at <paramref name="address"/>, kept until it is disposed.</summary>
    /// <param name="address">Address in this process.</param>
    /// <param name="lengthBytes">Bytes that must all lie in one range.</param>
    /// <param name="peer">Who asks; already allowed to.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Refused"/>: nothing is held there, or it is being updated.</exception>
    HeldMemory AcquireMemory(ulong address, ulong lengthBytes, PeerCredentials peer);

    /// <summary>What proves, on a data connection, that its peer has a lease; null when none is required.</summary>
    byte[]? LaneKey => null;

    /// <summary>A lease on the checkpoint that <paramref name="address"/> belongs to; null when there is none, or it is about to be changed or taken away.</summary>
    /// <param name="address">An address inside the checkpoint.</param>
    /// <param name="peer">Who asks, for logs.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Busy"/>: as many leases as are allowed are out.</exception>
    ReadLease? TryLease(ulong address, string peer);

    /// <summary>How many leases are out now, on all that is held.</summary>
    int Leases => 1;

    /// <summary>Lets the holder of a lease connect queue pairs while it has it, and tells it what it needs for that.</summary>
    /// <param name="lease">The lease.</param>
    /// <param name="conversationKey">What both sides of the conversation have.</param>
    /// <param name="answer">Gets the number and the salt of the <see cref="Transfer.Rdma.RdmaKey"/>, and the segment's descriptor.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: nothing is read here over RDMA. <see cref="CheckpointError.Refused"/>: the lease has ended.</exception>
    void OfferRdma(ReadLease lease, ReadOnlySpan<byte> conversationKey, IBufferWriter<byte> answer)
        => ThrowHelper.Throw(CheckpointError.NotSupported, "nothing is read here over RDMA");

    /// <summary>What joiners of one swarm prove to each other; null when none is demanded.</summary>
    byte[]? SwarmKey => null;

    /// <summary>A place among those that read the same of the checkpoint that <paramref name="address"/> belongs to; null when there is none.</summary>
    /// <param name="address">An address in this process.</param>
    /// <param name="layout">Which units they read.</param>
    /// <param name="units">How many.</param>
    /// <param name="from">Where the joiner's connection comes from.</param>
    SwarmPlace? EnterSwarm(ulong address, UInt128 layout, int units, IPAddress from) => null;

    /// <summary>What this process offers of what it reads itself; null when it does not.</summary>
    RelayOffer? FindOffer(UInt128 layout) => null;
}
