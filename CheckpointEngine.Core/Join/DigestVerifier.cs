using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Planning;
using CheckpointEngine.Telemetry;

namespace CheckpointEngine.Join;

/// <summary>
/// Hashes what arrives, chunk by chunk while it is in cache, and compares it with what its owner vouches for: chunk digests that are fetched
/// over the conversation while the bytes come, or the root in the metas.
/// </summary>
/// <remarks>Any number of lanes call <see cref="Advance"/>, each with units of its own; it allocates nothing.</remarks>
internal sealed partial class DigestVerifier
{
    // A smaller chunk comes whole with most pieces, and is still in cache when it has.
    private const int LeastBytesForSteps = 64 << 10;

    internal const string NoDigests = "owner-has-no-digests";

    private readonly TransferPlan _plan;
    private readonly OwnerLink?[] _links;
    private readonly Dictionary<DigestAlgorithm, CheckpointDigests> _received = [];
    private readonly Dictionary<DigestAlgorithm, CheckpointDigests> _expected = [];
    private readonly CheckpointDigests?[] _receivedByOwner;
    private readonly CheckpointDigests?[] _expectedByOwner;
    private readonly long[] _generations;       // by owner; 0 until it has told one
    private readonly OwnerReplicas? _replicas;
    private volatile bool _fetched;             // no more digests will come

    /// <summary>With owners to ask, but for those of which nothing is read.</summary>
    internal DigestVerifier(TransferPlan plan, OwnerLink?[] links, Predicate<int> isRead, OwnerReplicas? replicas = null)
        : this(plan, links, [.. Enumerable.Range(0, links.Length).Select(owner => links[owner] is null || !isRead(owner) ? DigestAlgorithm.None : ChooseAlgorithm(plan, links, replicas?.ReferenceOf(owner) ?? owner))])
    {
        _replicas = replicas;
    }

    /// <summary>Without owners to ask: what arrives is compared with the roots in the metas.</summary>
    internal DigestVerifier(TransferPlan plan, DigestAlgorithm[] algorithms)
        : this(plan, new OwnerLink?[algorithms.Length], algorithms)
    {
    }

    private DigestVerifier(TransferPlan plan, OwnerLink?[] links, DigestAlgorithm[] algorithms)
    {
        _plan = plan;
        _links = links;
        _receivedByOwner = new CheckpointDigests?[links.Length];
        _expectedByOwner = new CheckpointDigests?[links.Length];
        _generations = new long[links.Length];
        for (int owner = 0; owner < links.Length; owner++)
        {
            DigestAlgorithm algorithm = algorithms[owner];
            if (algorithm == DigestAlgorithm.None)
            {
                continue;
            }
            if (!_received.TryGetValue(algorithm, out CheckpointDigests? received))
            {
                _received.Add(algorithm, received = new CheckpointDigests(plan.Tensors, algorithm));
                _expected.Add(algorithm, new CheckpointDigests(plan.Tensors, algorithm));
            }
            _receivedByOwner[owner] = received;
            _expectedByOwner[owner] = _expected[algorithm];
        }
    }

    /// <summary>Called, on any thread, when digests of an owner have come.</summary>
    internal Action? ExpectedCame { get; set; }

    /// <summary>The digests of all that was received, when every chunk of every tensor was hashed with <paramref name="algorithm"/>; else null.</summary>
    internal CheckpointDigests? TakeReceived(DigestAlgorithm algorithm)
        => _received.TryGetValue(algorithm, out CheckpointDigests? received) && received.IsComplete ? received : null;

    /// <summary>Hashes what has come of a unit, and compares the chunks that are whole with those whose digests are known already.</summary>
    /// <param name="check">How far the check of this unit is; default at its begin.</param>
    /// <param name="unit">The unit.</param>
    /// <param name="bytes">Its first byte.</param>
    /// <param name="available">Bytes that are there, from the first on; <see cref="ReadUnit.LengthBytes"/> ends the check.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.DigestMismatch"/>.</exception>
    internal unsafe void Advance(ref UnitCheck check, in ReadUnit unit, byte* bytes, int available) => Check(ref check, unit, bytes, available, null);

    /// <summary>Copies a whole unit and checks it on the way.</summary>
    /// <param name="unit">The unit.</param>
    /// <param name="source">Its first byte; nobody changes it meanwhile.</param>
    /// <param name="destination">Where it goes; padding between tensors may be left out.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.DigestMismatch"/>.</exception>
    internal unsafe void Copy(in ReadUnit unit, byte* source, byte* destination)
    {
        if (_receivedByOwner[_plan.Ranges[unit.Range].Owner] is null)
        {
            StreamingCopy.Copy(source, destination, unit.LengthBytes);
            return;
        }
        var check = default(UnitCheck);
        Check(ref check, unit, source, unit.LengthBytes, destination);
    }

    /// <summary>Whether the bytes are what their owner vouches for, all of them; then they count as received.</summary>
    /// <returns>False when they differ, or when it is not known yet what they should be.</returns>
    internal unsafe bool TryAccept(in ReadUnit unit, byte* bytes)
    {
        int owner = _plan.Ranges[unit.Range].Owner;
        if (_receivedByOwner[owner] is not CheckpointDigests received)
        {
            return false;
        }
        CheckpointDigests expected = _expectedByOwner[owner]!;
        Span<byte> digest = stackalloc byte[TensorDigest.MaxDigestBytes];
        digest = digest[..received.Algorithm.DigestBytes()];
        foreach (UnitPart part in new UnitParts(_plan, unit))
        {
            TensorDigest.Hash(received.Algorithm, new ReadOnlySpan<byte>(bytes + part.Start, part.LengthBytes), digest);
            if (expected.Matches(part.Tensor, part.Chunk, digest) != true)
            {
                return false;       // what was set before is set anew when the unit is read
            }
            received.Set(part.Tensor, part.Chunk, digest);
        }
        return true;
    }

    private unsafe void Check(ref UnitCheck check, in ReadUnit unit, byte* bytes, int available, byte* copy)
    {
        ref readonly ReadRange range = ref _plan.Ranges[unit.Range];
        if (_receivedByOwner[range.Owner] is not CheckpointDigests received)
        {
            return;
        }
        CheckpointDigests expected = _expectedByOwner[range.Owner]!;
        Span<byte> digest = stackalloc byte[TensorDigest.MaxDigestBytes];
        digest = digest[..received.Algorithm.DigestBytes()];
        TensorTable tensors = _plan.Tensors;
        if (!check.HasBegun)
        {
            check = new UnitCheck { HasBegun = true, Tensor = unit.FirstTensor, Offset = unit.FirstTensorOffset };
        }
        long unitStart = range.DestinationOffset + unit.OffsetInRange;
        while (check.Tensor < range.FirstTensor + range.TensorCount)
        {
            long length = tensors.GetByteLength(check.Tensor);
            int chunkBytes = (int)Math.Min(TensorDigest.ChunkBytes, length - check.Offset);
            long start = tensors.GetOffset(check.Tensor) + check.Offset - unitStart;
            if (start + chunkBytes > unit.LengthBytes)
            {
                break;
            }
            if (chunkBytes != 0)
            {
                bool inSteps = received.Algorithm == DigestAlgorithm.Xxh3 && chunkBytes >= LeastBytesForSteps && Xxh3State.IsSupported;
                if (inSteps && !check.InChunk)
                {
                    check.Chunk.Begin(chunkBytes);
                    check.InChunk = true;
                }
                if (start + chunkBytes > available)
                {
                    if (inSteps && available > start)
                    {
                        check.Chunk.Advance(bytes + start, available - start);
                    }
                    return;
                }
                if (copy != null)
                {
                    if (inSteps)
                    {
                        check.Chunk.CopyAll(bytes + start, copy + start);
                    }
                    else
                    {
                        StreamingCopy.Copy(bytes + start, copy + start, chunkBytes);
                    }
                }
                if (inSteps)
                {
                    check.Chunk.End(bytes + start, digest);
                    check.InChunk = false;
                }
                else
                {
                    TensorDigest.Hash(received.Algorithm, new ReadOnlySpan<byte>(bytes + start, chunkBytes), digest);
                }
                int chunk = (int)(check.Offset / TensorDigest.ChunkBytes);
                if (expected.Matches(check.Tensor, chunk, digest) == false)
                {
                    ThrowMismatch(check.Tensor, chunk);
                }
                received.Set(check.Tensor, chunk, digest);
            }
            check.Offset += chunkBytes;
            if (check.Offset == length)
            {
                check.Tensor++;
                check.Offset = 0;
            }
        }
    }

    /// <summary>Whether it is known what all bytes of a unit should be, or never will be.</summary>
    internal bool Knows(in ReadUnit unit) => _fetched || _expectedByOwner[_plan.Ranges[unit.Range].Owner] is null || CanCheck(unit);

    /// <summary>Whether it is known what all bytes of a unit should be: those that have come were checked.</summary>
    internal bool CanCheck(in ReadUnit unit)
    {
        if (_expectedByOwner[_plan.Ranges[unit.Range].Owner] is not CheckpointDigests expected)
        {
            return false;
        }
        foreach (UnitPart part in new UnitParts(_plan, unit))
        {
            if (!expected.Has(part.Tensor, part.Chunk))
            {
                return false;
            }
        }
        return true;
    }

    /// <summary>Compares what could not be compared on arrival.</summary>
    /// <param name="isRead">Whether anything of an owner was read; the others are left out.</param>
    /// <returns>Null when every byte was checked; else why not.</returns>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.DigestMismatch"/>.</exception>
    internal string? Conclude(Predicate<int> isRead)
    {
        bool complete = true;
        foreach (PlannedBuffer buffer in _plan.Buffers)
        {
            if (!isRead(buffer.Owner))
            {
                continue;
            }
            for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
            {
                complete &= IsChecked(buffer.Owner, tensor);
            }
        }
        return complete ? null : NoDigests;
    }

    /// <summary>Whether all of a tensor that has arrived was compared with what its owner vouches for.</summary>
    /// <returns>False when the owner's digests are not there, yet or at all.</returns>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.DigestMismatch"/>.</exception>
    internal bool IsChecked(int owner, int tensor)
    {
        if (_plan.Tensors.GetByteLength(tensor) == 0)
        {
            return true;
        }
        if (_receivedByOwner[owner] is not CheckpointDigests received)
        {
            return false;
        }
        if (received.FindDifference(_expectedByOwner[owner]!, tensor) is int difference)
        {
            if (difference >= 0)
            {
                ThrowMismatch(tensor, difference);
            }
            return true;
        }
        Span<byte> root = stackalloc byte[TensorDigest.MaxDigestBytes];
        int source = _plan.GetSourceTensor(tensor);
        if (_plan.Metas.GetDigestAlgorithm(source) != received.Algorithm || !received.TryGetRoot(tensor, root))
        {
            return false;
        }
        if (!_plan.Metas.GetDigest(source).SequenceEqual(root[..received.Algorithm.DigestBytes()]))
        {
            ThrowMismatch(tensor, -1);
        }
        return true;
    }

    private void ThrowMismatch(int tensor, int chunk)
    {
        EngineMetrics.Mismatched();
        string owner = "";
        foreach (PlannedBuffer buffer in _plan.Buffers)
        {
            if (tensor >= buffer.FirstTensor && tensor < buffer.FirstTensor + buffer.TensorCount)
            {
                owner = _links[buffer.Owner]?.Name ?? "";
            }
        }
        long offset = Math.Max(0, chunk) * (long)TensorDigest.ChunkBytes;
        long end = chunk < 0 ? _plan.Tensors.GetByteLength(tensor) : Math.Min(_plan.Tensors.GetByteLength(tensor), offset + TensorDigest.ChunkBytes);
        ThrowHelper.Throw(CheckpointError.DigestMismatch,
            $"check tensor '{_plan.Tensors.GetName(tensor)}' of {owner}: bytes {offset:N0} to {end:N0} differ from the owner's digest; its memory changed during the read or the bytes were damaged on the way, join again");
    }
}

/// <summary>How far the check of one unit is. Of one lane, which passes it to <see cref="DigestVerifier.Advance"/>.</summary>
internal struct UnitCheck
{
    internal bool HasBegun;

    /// <summary>The tensor that is being hashed.</summary>
    internal int Tensor;

    /// <summary>Its bytes before the chunk that is being hashed.</summary>
    internal long Offset;

    /// <summary>Whether <see cref="Chunk"/> has begun.</summary>
    internal bool InChunk;

    /// <summary>The chunk that is being hashed, if it is hashed in steps.</summary>
    internal Xxh3State Chunk;
}
