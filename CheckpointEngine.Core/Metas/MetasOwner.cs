namespace CheckpointEngine.Metas;

/// <summary>One owner rank: where its transfer engine answers, and the buffers it holds.</summary>
public sealed class MetasOwner
{
    private readonly MetasBuffer[] _buffers;

    internal MetasOwner(int rank, string? p2pStoreAddress, string? rdmaDevice, MetasBuffer[] buffers, string epoch = "", long generation = 0)
    {
        Epoch = epoch;
        Generation = generation;
        Rank = rank;
        P2pStoreAddress = p2pStoreAddress;
        RdmaDevice = rdmaDevice;
        _buffers = buffers;
    }

    /// <summary>The rank.</summary>
    public int Rank { get; }

    /// <summary><c>host:port</c> of the owner's transfer engine (IPv6 in square brackets), or null when it has none.</summary>
    public string? P2pStoreAddress { get; }

    /// <summary>RDMA device names joined by commas; empty for none; null when the metas did not say.</summary>
    public string? RdmaDevice { get; }

    /// <summary>What tells the owner's process from every other, one after a restart included: random text of at most 64 ASCII characters. Empty when the metas do not say (pickle cannot, and plain owners have none).</summary>
    public string Epoch { get; }

    /// <summary>Which registration of the owner's process this is: it rises with every one; 0 when the metas do not say.</summary>
    public long Generation { get; }

    /// <summary>The buffers, in the order of the metas.</summary>
    public ReadOnlySpan<MetasBuffer> Buffers => _buffers;

    /// <summary>Number of tensors in all buffers.</summary>
    public int TensorCount
    {
        get
        {
            int count = 0;
            foreach (MetasBuffer buffer in _buffers)
            {
                count += buffer.TensorCount;
            }
            return count;
        }
    }
}
