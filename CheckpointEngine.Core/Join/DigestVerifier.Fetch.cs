using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

// What the owners vouch for: who is asked, and what is made of the answers.
internal sealed partial class DigestVerifier
{
    // The first answer must not wait for gigabytes to be hashed by an owner that has only just registered; later ones are few and large.
    private const int FirstBatchChunks = 64;

    // 2 GiB of tensors: an owner that must first read them from a slow disk still answers within the stall timeout.
    private const int LargestBatchChunks = 512;

    /// <summary>Fetches the chunk digests of all owners that have a conversation, in the order in which their bytes come.</summary>
    /// <remarks>Where several owners hold the same, those of the first of them are what counts, so that the bytes are one owner's version whoever they come from.</remarks>
    internal async Task FetchAsync(CancellationToken cancellationToken)
    {
        try
        {
            await Task.WhenAll(Enumerable.Range(0, _links.Length).Where(owner => _links[owner] is not null && _expectedByOwner[owner] is not null)
                .Select(owner => FetchForAsync(owner, cancellationToken))).ConfigureAwait(false);
        }
        finally
        {
            _fetched = true;
            ExpectedCame?.Invoke();
        }
    }

    private async Task FetchForAsync(int owner, CancellationToken cancellationToken)
    {
        while (true)
        {
            int from = _replicas?.ReferenceOf(owner) ?? owner;
            if (from < 0 || _links[from] is not { Peer: PeerClient peer } link || link.Digest != _expectedByOwner[owner]!.Algorithm)
            {
                return;
            }
            try
            {
                await FetchAsync(owner, from, peer, cancellationToken).ConfigureAwait(false);
                return;
            }
            catch (CheckpointEngineException failure) when (_replicas is not null && failure.Error != CheckpointError.DigestMismatch && _replicas.TryDrop(from, failure))
            {
                // The next one vouches; what the first has told already must be the same.
            }
        }
    }

    private async Task FetchAsync(int owner, int from, PeerClient peer, CancellationToken cancellationToken)
    {
        TransferPlan plan = _plan;
        CheckpointDigests expected = _expectedByOwner[owner]!;
        var batch = new List<(ulong Address, long LengthBytes)>();
        var batchTensors = new List<int>();
        int batchChunks = 0;
        int limit = FirstBatchChunks;
        for (int r = 0; r < plan.Ranges.Length; r++)
        {
            ReadRange range = plan.Ranges[r];
            if (range.Owner != owner)
            {
                continue;
            }
            for (int tensor = range.FirstTensor; tensor < range.FirstTensor + range.TensorCount; tensor++)
            {
                int chunks = expected.ChunkCountOf(tensor);
                if (chunks == 0)
                {
                    continue;
                }
                if (batch.Count != 0 && (batchChunks + chunks > limit || batch.Count == PeerSession.MaxTensorsPerRequest))
                {
                    await FetchBatchAsync().ConfigureAwait(false);
                }
                ulong address = range.RemoteAddress + (ulong)(plan.Tensors.GetOffset(tensor) - range.DestinationOffset);
                if (from != owner)
                {
                    _replicas!.Table.TryFind(tensor, from, out address);
                }
                batch.Add((address, plan.Tensors.GetByteLength(tensor)));
                batchTensors.Add(tensor);
                batchChunks += chunks;
            }
        }
        if (batch.Count != 0)
        {
            await FetchBatchAsync().ConfigureAwait(false);
        }

        async Task FetchBatchAsync()
        {
            (long generation, byte[]?[] digests) = await peer.GetDigestsAsync(batch.ToArray(), cancellationToken).ConfigureAwait(false);
            if (_generations[from] == 0)
            {
                _generations[from] = generation;
            }
            for (int i = 0; i < digests.Length; i++)
            {
                // What it held when the join began it holds no more, or in another version: bytes of both may be here already.
                if (generation != _generations[from] || (digests[i] is null && _generations[from] != 0))
                {
                    ThrowHelper.Throw(CheckpointError.Superseded,
                        $"check tensor '{_plan.Tensors.GetName(batchTensors[i])}' of {_links[from]!.Name}: the owner has changed or taken away the checkpoint since the join began; fetch the metas anew and join again");
                }
                if (digests[i] is byte[] chunks)
                {
                    TakeExpected(expected, batchTensors[i], chunks, owner, from);
                }
            }
            ExpectedCame?.Invoke();
            batch.Clear();
            batchTensors.Clear();
            batchChunks = 0;
            limit = Math.Min(limit * 2, LargestBatchChunks);
        }
    }

    private void TakeExpected(CheckpointDigests expected, int tensor, byte[] chunks, int owner, int from)
    {
        int source = _plan.GetSourceTensor(tensor);
        if (_plan.Metas.GetDigestAlgorithm(source) == expected.Algorithm)
        {
            Span<byte> root = stackalloc byte[TensorDigest.MaxDigestBytes];
            TensorDigest.Hash(expected.Algorithm, chunks, root);
            if (!_plan.Metas.GetDigest(source).SequenceEqual(root[..expected.Algorithm.DigestBytes()]) && !(from != owner && _replicas!.TryDrop(owner, Differs(tensor, from))))
            {
                ThrowHelper.Throw(CheckpointError.DigestMismatch,
                    $"check tensor '{_plan.Tensors.GetName(tensor)}': its owner's chunk digests do not give the digest in the metas; the owner holds something else now, fetch the metas anew");
            }
        }
        int bytes = expected.Algorithm.DigestBytes();
        for (int chunk = 0; chunk < expected.ChunkCountOf(tensor); chunk++)
        {
            if (expected.Matches(tensor, chunk, chunks.AsSpan(chunk * bytes, bytes)) == false)
            {
                ThrowHelper.Throw(CheckpointError.DigestMismatch,
                    $"check tensor '{_plan.Tensors.GetName(tensor)}': the owner that vouched for it is gone, and the one that stands in for it holds other bytes; they are not replicas of one checkpoint, join from one of them");
            }
            expected.Set(tensor, chunk, chunks.AsSpan(chunk * bytes, bytes));
        }
    }

    private CheckpointEngineException Differs(int tensor, int from)
        => new(CheckpointError.DigestMismatch, $"it is no replica: its tensor '{_plan.Tensors.GetName(tensor)}' differs from that of {_links[from]!.Name}");

    private static DigestAlgorithm ChooseAlgorithm(TransferPlan plan, OwnerLink?[] links, int owner)
    {
        if (links[owner]!.Digest != DigestAlgorithm.None)
        {
            return links[owner]!.Digest;
        }
        foreach (MetasBuffer buffer in plan.Metas.Owners[owner].Buffers)
        {
            for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
            {
                if (plan.Metas.GetDigestAlgorithm(tensor) is not DigestAlgorithm.None and DigestAlgorithm algorithm)
                {
                    return algorithm;
                }
            }
        }
        return DigestAlgorithm.None;
    }
}
