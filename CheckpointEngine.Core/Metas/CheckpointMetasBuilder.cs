using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas;

/// <summary>
/// Builds <see cref="CheckpointMetas"/> in the order in which documents tell them: tensors, then the buffer they fill, then the owner of
/// the buffers.
/// </summary>
/// <remarks>One thread at a time.</remarks>
public sealed class CheckpointMetasBuilder : IDisposable
{
    private readonly TensorTableBuilder _tensors = new();
    private readonly List<MetasOwner> _owners = [];
    private readonly HashSet<int> _ranks = [];
    private readonly List<MetasBuffer> _buffers = [];    // of the owner that is being built
    private NativeColumn<DigestAlgorithm> _digestAlgorithms;
    private NativeColumn<byte> _digests;                  // TensorDigest.MaxDigestBytes a tensor, from the first tensor with a digest on
    private bool _hasSha256;
    private int _bufferFirstTensor;
    private long _bufferUsedBytes;

    /// <summary>Tensors added so far, over all owners.</summary>
    public int TensorCount => _tensors.Count;

    /// <summary>Owners closed so far.</summary>
    internal int OwnerCount => _owners.Count;

    /// <summary>Whether the owner of <paramref name="rank"/> has been closed.</summary>
    internal bool HasOwner(int rank) => _ranks.Contains(rank);

    /// <summary>Adds the next tensor of the current buffer; its type by torch name.</summary>
    /// <param name="nameUtf8">Its name.</param>
    /// <param name="torchDtype">Its type's torch name; one unknown to this engine is moved as bytes.</param>
    /// <param name="shape">Its dimensions.</param>
    /// <param name="slotBytes">Its <c>aligned_size</c>, at least its bytes.</param>
    public void AddTensor(ReadOnlySpan<byte> nameUtf8, ReadOnlySpan<byte> torchDtype, ReadOnlySpan<long> shape, long slotBytes)
    {
        _tensors.Add(nameUtf8, torchDtype, shape, slotBytes, Advance(slotBytes));
        PadDigests();
    }

    /// <summary>Adds the next tensor of the current buffer; its type by code.</summary>
    public void AddTensor(ReadOnlySpan<byte> nameUtf8, TensorDtype dtype, ReadOnlySpan<long> shape, long slotBytes)
    {
        _tensors.Add(nameUtf8, dtype, shape, slotBytes, Advance(slotBytes));
        PadDigests();
    }

    /// <summary>
    /// Adds the next tensor of the current buffer as <paramref name="source"/> has it, in a slot of <paramref name="slotBytes"/>.
    /// </summary>
    public void AddTensorFrom(TensorTable source, int tensor, long slotBytes)
    {
        _tensors.AddFrom(source, tensor, slotBytes, Advance(slotBytes));
        PadDigests();
    }

    /// <summary>Gives the tensor added last its digest.</summary>
    public void SetDigest(DigestAlgorithm algorithm, ReadOnlySpan<byte> digest)
    {
        if (algorithm == DigestAlgorithm.None)
        {
            return;
        }
        if (digest.Length != algorithm.DigestBytes())
        {
            throw new ArgumentException($"a digest of {digest.Length} bytes is no {algorithm}", nameof(digest));
        }
        FillDigests();
        _digestAlgorithms[_tensors.Count - 1] = algorithm;
        digest.CopyTo(_digests.Span[((_tensors.Count - 1) * TensorDigest.MaxDigestBytes)..]);
        _hasSha256 |= algorithm == DigestAlgorithm.Sha256;
    }

    /// <summary>Closes the current buffer: the tensors added since the last one lie in it, back to back.</summary>
    public void EndBuffer(ulong address, long sizeBytes)
    {
        _buffers.Add(new MetasBuffer(address, sizeBytes, _bufferFirstTensor, _tensors.Count - _bufferFirstTensor));
        _bufferFirstTensor = _tensors.Count;
        _bufferUsedBytes = 0;
    }

    /// <summary>Closes the current owner: the buffers closed since the last one are its own.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.WrongShape"/>: the rank was there before, or tensors lie in
    /// no buffer.</exception>
    /// <param name="rank">Its rank.</param>
    /// <param name="p2pStoreAddress"><c>host:port</c> of its transfer engine.</param>
    /// <param name="rdmaDevice">Its RDMA devices.</param>
    /// <param name="epoch"><see cref="MetasOwner.Epoch"/>.</param>
    /// <param name="generation"><see cref="MetasOwner.Generation"/>.</param>
    public void EndOwner(int rank, string? p2pStoreAddress, string? rdmaDevice, string epoch = "", long generation = 0)
    {
        if (_bufferFirstTensor != _tensors.Count)
        {
            ThrowHelper.Throw(CheckpointError.WrongShape, $"metas: {_tensors.Count - _bufferFirstTensor} tensors of rank {rank} lie in no buffer");
        }
        if (!_ranks.Add(rank))
        {
            ThrowHelper.Throw(CheckpointError.WrongShape, $"metas: rank {rank} is told twice");
        }
        _owners.Add(new MetasOwner(rank, p2pStoreAddress, rdmaDevice, [.. _buffers], epoch, generation));
        _buffers.Clear();
    }

    /// <summary>Adds an owner of other metas with all that it holds.</summary>
    public void AddOwnerFrom(CheckpointMetas source, MetasOwner owner) => AddOwnerFrom(source, owner, owner?.Rank ?? 0);

    /// <summary>Adds an owner of other metas with all that it holds, under another rank.</summary>
    internal void AddOwnerFrom(CheckpointMetas source, MetasOwner owner, int rank)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(owner);
        foreach (MetasBuffer buffer in owner.Buffers)
        {
            for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
            {
                AddTensorFrom(source.Tensors, tensor, source.Tensors.GetSlotBytes(tensor));
                SetDigest(source.GetDigestAlgorithm(tensor), source.GetDigest(tensor));
            }
            EndBuffer(buffer.Address, buffer.SizeBytes);
        }
        EndOwner(rank, owner.P2pStoreAddress, owner.RdmaDevice, owner.Epoch, owner.Generation);
    }

    /// <summary>Makes the metas and checks them (<see cref="CheckpointMetas.Validate"/>).</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.WrongShape"/>.</exception>
    public CheckpointMetas Build()
    {
        MetasOwner[] owners = [.. _owners.OrderBy(owner => owner.Rank)];
        DigestAlgorithm[]? algorithms = null;
        byte[]? digests = null;
        int stride = _hasSha256 ? 32 : 16;
        if (_digestAlgorithms.Count != 0)
        {
            FillDigests();
            algorithms = _digestAlgorithms.ToArray();
            digests = GC.AllocateUninitializedArray<byte>(_tensors.Count * stride);
            for (int tensor = 0; tensor < _tensors.Count; tensor++)
            {
                _digests.Span.Slice(tensor * TensorDigest.MaxDigestBytes, stride).CopyTo(digests.AsSpan(tensor * stride));
            }
        }
        var metas = new CheckpointMetas(owners, _tensors.Build(), algorithms, digests, stride);
        metas.Validate();
        return metas;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _tensors.Dispose();
        _digestAlgorithms.Dispose();
        _digests.Dispose();
    }

    private long Advance(long slotBytes)
    {
        long offset = _bufferUsedBytes;
        if (slotBytes < 0 || slotBytes > long.MaxValue - offset)
        {
            ThrowHelper.Throw(CheckpointError.WrongShape, $"metas: an aligned_size of {slotBytes} bytes, {offset:N0} bytes into its buffer");
        }
        _bufferUsedBytes += slotBytes;
        return offset;
    }

    // Nothing is kept while no tensor has a digest; the common document has them for all or for none.
    private void PadDigests()
    {
        if (_digestAlgorithms.Count != 0)
        {
            FillDigests();
        }
    }

    private void FillDigests()
    {
        Span<byte> none = stackalloc byte[TensorDigest.MaxDigestBytes];
        none.Clear();
        while (_digestAlgorithms.Count < _tensors.Count)
        {
            _digestAlgorithms.Add(DigestAlgorithm.None);
            _digests.AddRange(none);
        }
    }
}
