using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>What of <c>ibv_device_attr</c> bounds what is done here.</summary>
internal sealed class RdmaDeviceLimits(in LibIbverbs.IbvDeviceAttr attributes)
{
    /// <summary>The largest memory region, in bytes.</summary>
    internal ulong MaxRegionBytes { get; } = attributes.max_mr_size;

    internal int MaxRegions { get; } = attributes.max_mr;

    internal int MaxQueuePairs { get; } = attributes.max_qp;

    /// <summary>Requests in one queue.</summary>
    internal int MaxQueuePairRequests { get; } = attributes.max_qp_wr;

    internal int MaxCompletionQueueEntries { get; } = attributes.max_cqe;

    /// <summary>Pieces of memory in one request; in an RDMA read <see cref="MaxReadPieces"/>.</summary>
    internal int MaxPieces { get; } = attributes.max_sge;

    /// <summary>Pieces of memory in one RDMA read, which some drivers leave at 0.</summary>
    internal int MaxReadPieces { get; } = attributes.max_sge_rd;

    /// <summary>RDMA reads of the peer that a queue pair serves at once (max_dest_rd_atomic).</summary>
    internal int MaxReadsServed { get; } = attributes.max_qp_rd_atom;

    /// <summary>RDMA reads that a queue pair has under way at once (max_rd_atomic).</summary>
    internal int MaxReadsInFlight { get; } = attributes.max_qp_init_rd_atom;

    internal int PhysicalPorts { get; } = attributes.phys_port_cnt;
}
