using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas;

/// <summary>
/// What is told about a checkpoint: which owner rank holds which tensor at which address. Enough for a stranger to read every tensor out of
/// the owners' memory.
/// </summary>
/// <remarks>Immutable; any number of threads. Made by <see cref="CheckpointMetasBuilder"/> or one of the readers of this room.</remarks>
public sealed class CheckpointMetas
{
    private readonly MetasOwner[] _owners;
    private readonly DigestAlgorithm[]? _digestAlgorithms;   // per tensor; null when no tensor has a digest
    private readonly byte[]? _digests;                       // _digestStride bytes per tensor
    private readonly int _digestStride;

    internal CheckpointMetas(MetasOwner[] owners, TensorTable tensors, DigestAlgorithm[]? digestAlgorithms, byte[]? digests, int digestStride)
    {
        _owners = owners;
        Tensors = tensors;
        _digestAlgorithms = digestAlgorithms;
        _digests = digests;
        _digestStride = digestStride;
    }

    /// <summary>Metas without owners.</summary>
    public static CheckpointMetas Empty { get; } = new([], TensorTable.Empty, null, null, 0);

    /// <summary>The owners, by rising rank, each rank once.</summary>
    public ReadOnlySpan<MetasOwner> Owners => _owners;

    /// <summary>The tensors of all owners; those of one buffer follow each other.</summary>
    public TensorTable Tensors { get; }

    /// <summary>Bytes of tensor data over all owners, padding not counted.</summary>
    public long DataBytes
    {
        get
        {
            long bytes = 0;
            for (int tensor = 0; tensor < Tensors.Count; tensor++)
            {
                bytes += Tensors.GetByteLength(tensor);
            }
            return bytes;
        }
    }

    /// <summary>
    /// The algorithm of the digest that the metas give for a tensor, <see cref="DigestAlgorithm.None"/> when they give none.
    /// </summary>
    public DigestAlgorithm GetDigestAlgorithm(int tensor) => _digestAlgorithms is null ? DigestAlgorithm.None : _digestAlgorithms[tensor];

    /// <summary>The digest (root of the tree) that the metas give for a tensor; empty when they give none.</summary>
    public ReadOnlySpan<byte> GetDigest(int tensor)
        => _digests is null ? default : _digests.AsSpan(tensor * _digestStride, GetDigestAlgorithm(tensor).DigestBytes());

    /// <summary>The owner of that rank, or null.</summary>
    public MetasOwner? FindOwner(int rank)
    {
        int low = 0;
        int high = _owners.Length - 1;
        while (low <= high)
        {
            int middle = (low + high) >>> 1;
            int found = _owners[middle].Rank;
            if (found == rank)
            {
                return _owners[middle];
            }
            (low, high) = found < rank ? (middle + 1, high) : (low, middle - 1);
        }
        return null;
    }

    /// <summary>
    /// Checks metas from a stranger before anything is allocated for them: slots hold their tensors' bytes, the slots of a buffer fit
    /// into it, buffers neither wrap around the address space nor overlap another of their owner, and all sizes together stay below 2^63
    /// bytes. What a reader of this room returns has been checked.
    /// </summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.WrongShape"/>: owner, tensor and the rule.</exception>
    public void Validate()
    {
        long total = 0;
        foreach (MetasOwner owner in _owners)
        {
            if (owner.Rank < 0)
            {
                ThrowHelper.Throw(CheckpointError.WrongShape, $"metas: rank {owner.Rank} is negative");
            }
            for (int b = 0; b < owner.Buffers.Length; b++)
            {
                ValidateBuffer(owner.Rank, b, owner.Buffers[b]);
                if (owner.Buffers[b].SizeBytes > long.MaxValue - total)
                {
                    ThrowHelper.Throw(CheckpointError.WrongShape,
                        $"metas: the buffers up to buffer {b} of rank {owner.Rank} have 2^63 bytes or more");
                }
                total += owner.Buffers[b].SizeBytes;
            }
            ValidateOverlap(owner);
        }
    }

    /// <summary>
    /// Checks what is needed beyond <see cref="Validate"/> to read from these metas: every owner that has buffers has an address and says
    /// which RDMA device it has (maybe none).
    /// </summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.WrongShape"/>.</exception>
    public void ValidateForLoading()
    {
        foreach (MetasOwner owner in _owners)
        {
            if (owner.P2pStoreAddress is null || owner.RdmaDevice is null)
            {
                string missing = owner.P2pStoreAddress is null ? "p2p_store_addr" : "rdma_device";
                ThrowHelper.Throw(CheckpointError.WrongShape,
                    $"metas: owner rank {owner.Rank} has no {missing}; was it started without a transfer engine?");
            }
        }
    }

    /// <summary>These metas without the owners that hold no buffer.</summary>
    public CheckpointMetas WithoutEmptyOwners()
        => Array.TrueForAll(_owners, owner => owner.Buffers.Length != 0)
            ? this
            : new CheckpointMetas(Array.FindAll(_owners, owner => owner.Buffers.Length != 0), Tensors, _digestAlgorithms, _digests, _digestStride);

    /// <summary>
    /// Puts the owners of several metas together as replicas: every owner stays, and one whose rank is taken gets the lowest that is free. An owner that is
    /// told twice, by address and generation, is there once.
    /// </summary>
    public static CheckpointMetas Combine(params ReadOnlySpan<CheckpointMetas> parts)
    {
        if (parts.Length == 1)
        {
            return parts[0];
        }
        using var builder = new CheckpointMetasBuilder();
        var known = new HashSet<(string?, string, long, ulong)>();
        int free = 0;
        foreach (CheckpointMetas part in parts)
        {
            foreach (MetasOwner owner in part._owners)
            {
                if (known.Add((owner.P2pStoreAddress, owner.Epoch, owner.Generation, owner.Buffers.Length == 0 ? 0 : owner.Buffers[0].Address)))
                {
                    while (builder.HasOwner(free))
                    {
                        free++;
                    }
                    builder.AddOwnerFrom(part, owner, builder.HasOwner(owner.Rank) ? free : owner.Rank);
                }
            }
        }
        return builder.Build();
    }

    /// <summary>Whether these tell of the same generations of the same owners.</summary>
    internal bool HasSameOwners(CheckpointMetas other)
        => _owners.Length == other._owners.Length && _owners.Zip(other._owners).All(static pair => pair.First.P2pStoreAddress == pair.Second.P2pStoreAddress
            && pair.First.Epoch == pair.Second.Epoch && pair.First.Generation == pair.Second.Generation && pair.First.Buffers.SequenceEqual(pair.Second.Buffers));

    /// <summary>These metas without some owners and what only they hold.</summary>
    internal CheckpointMetas Without(Predicate<int> isLeftOut)
    {
        using var builder = new CheckpointMetasBuilder();
        for (int owner = 0; owner < _owners.Length; owner++)
        {
            if (!isLeftOut(owner))
            {
                builder.AddOwnerFrom(this, _owners[owner]);
            }
        }
        return builder.Build();
    }

    /// <summary>Puts the owners of several metas together; where two have the same rank, the later one's is taken.</summary>
    public static CheckpointMetas Merge(params ReadOnlySpan<CheckpointMetas> parts)
    {
        if (parts.Length == 1)
        {
            return parts[0];
        }
        var byRank = new SortedDictionary<int, (CheckpointMetas Metas, MetasOwner Owner)>();
        foreach (CheckpointMetas part in parts)
        {
            foreach (MetasOwner owner in part._owners)
            {
                byRank[owner.Rank] = (part, owner);
            }
        }
        using var builder = new CheckpointMetasBuilder();
        foreach ((CheckpointMetas metas, MetasOwner owner) in byRank.Values)
        {
            builder.AddOwnerFrom(metas, owner);
        }
        return builder.Build();
    }

    private void ValidateBuffer(int rank, int index, in MetasBuffer buffer)
    {
        if (buffer.SizeBytes < 0 || buffer.Address > ulong.MaxValue - (ulong)buffer.SizeBytes)
        {
            ThrowHelper.Throw(CheckpointError.WrongShape,
                $"metas: buffer {index} of rank {rank} at 0x{buffer.Address:x} with {buffer.SizeBytes:N0} bytes wraps around the address space");
        }
        long used = 0;
        for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
        {
            long slot = Tensors.GetSlotBytes(tensor);
            long length = Tensors.GetByteLength(tensor);
            if (length < 0 || slot < length)
            {
                string type = $"{MessageText.Quote(Tensors.GetDtypeName(tensor))} [{string.Join(',', Tensors.GetShape(tensor).ToArray())}]";
                ThrowHelper.Throw(CheckpointError.WrongShape,
                    $"metas: tensor {MessageText.Quote(Tensors.GetNameUtf8(tensor))} of rank {rank}: {type} does not fit into its aligned_size of {slot:N0} bytes");
            }
            if (Tensors.GetOffset(tensor) != used || slot > buffer.SizeBytes - used)
            {
                ThrowHelper.Throw(CheckpointError.WrongShape,
                    $"metas: tensor {MessageText.Quote(Tensors.GetNameUtf8(tensor))} of rank {rank} "
                    + $"ends {used:N0} + {slot:N0} bytes into buffer {index}, which has {buffer.SizeBytes:N0}");
            }
            used += slot;
        }
    }

    // Tied weights are two tensors in one memory. More than that is a lie that would have a joiner read one byte over and over.
    private static void ValidateOverlap(MetasOwner owner)
    {
        const ulong MostNamesOfAByte = 8;
        if (owner.Buffers.Length < 2)
        {
            return;
        }
        MetasBuffer[] byAddress = owner.Buffers.ToArray();
        Array.Sort(byAddress, static (x, y) => x.Address.CompareTo(y.Address));
        ulong end = 0;
        UInt128 told = 0;
        UInt128 there = 0;
        foreach (MetasBuffer buffer in byAddress)
        {
            ulong next = buffer.Address + (ulong)buffer.SizeBytes;
            told += (ulong)buffer.SizeBytes;
            there += next > end ? next - Math.Max(end, buffer.Address) : 0;
            end = Math.Max(end, next);
        }
        if (told > there * MostNamesOfAByte)
        {
            ThrowHelper.Throw(CheckpointError.WrongShape,
                $"metas: the buffers of rank {owner.Rank} overlap: they say {told:N0} bytes and have {there:N0}, more than {MostNamesOfAByte} names for a byte");
        }
    }
}
