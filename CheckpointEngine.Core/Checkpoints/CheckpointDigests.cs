using System.Runtime.CompilerServices;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>
/// The chunk digests of a held checkpoint, made as they are asked for: in the background from the first tensor to the last, at once for a
/// chunk that somebody waits for, or set by a join that hashed what it received.
/// </summary>
/// <remarks>
/// Any number of threads. A chunk is hashed once: who finds it untouched claims it, who finds it claimed waits. 16 or 32 bytes and one byte of
/// state a chunk of 4 MiB.
/// </remarks>
internal sealed class CheckpointDigests
{
    // 16 TiB, several times the largest models; at most 140 MB of digests, since a stranger's metas may claim any size.
    private const int MaxChunks = 1 << 22;

    private const byte Untouched = 0;
    private const byte Claimed = 1;
    private const byte Done = 2;

    private readonly TensorTable _tensors;
    private readonly int[] _firstChunk;     // per tensor, and the end
    private readonly byte[] _digests;
    private readonly byte[] _states;
    private readonly int _digestBytes;
    private readonly Lock _doneLock = new();
    private TaskCompletionSource _someDone = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private bool _hasWaiters;
    private int _doneCount;

    internal CheckpointDigests(TensorTable tensors, DigestAlgorithm algorithm)
    {
        Algorithm = algorithm;
        _tensors = tensors;
        _digestBytes = algorithm.DigestBytes();
        _firstChunk = new int[tensors.Count + 1];
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            long leftBytes = (long)(MaxChunks - _firstChunk[tensor]) * TensorDigest.ChunkBytes;
            if (tensors.GetByteLength(tensor) > leftBytes)
            {
                ThrowHelper.Throw(CheckpointError.OutOfMemory,
                    $"make room for digests: tensor {TensorNames.Quote(tensors, tensor)} brings the checkpoint above {(long)MaxChunks * TensorDigest.ChunkBytes:N0} bytes");
            }
            _firstChunk[tensor + 1] = checked(_firstChunk[tensor] + TensorDigest.ChunkCount(tensors.GetByteLength(tensor)));
        }
        _digests = new byte[checked(ChunkCount * _digestBytes)];
        _states = new byte[ChunkCount];
    }

    internal DigestAlgorithm Algorithm { get; }

    internal int ChunkCount => _firstChunk[^1];

    /// <summary>Chunks whose digest is there.</summary>
    internal int DoneCount => Volatile.Read(ref _doneCount);

    internal bool IsComplete => DoneCount == ChunkCount;

    internal int ChunkCountOf(int tensor) => _firstChunk[tensor + 1] - _firstChunk[tensor];

    /// <summary>Takes a digest that the caller made of the chunk's bytes; one writer a chunk, before the checkpoint is published.</summary>
    internal void Set(int tensor, int chunk, ReadOnlySpan<byte> digest)
    {
        int index = _firstChunk[tensor] + chunk;
        digest.CopyTo(DigestAt(index));
        if (Interlocked.Exchange(ref _states[index], Done) != Done)
        {
            Interlocked.Increment(ref _doneCount);
            Wake();
        }
    }

    /// <summary>Whether the digest of a chunk is there.</summary>
    internal bool Has(int tensor, int chunk) => Volatile.Read(ref _states[_firstChunk[tensor] + chunk]) == Done;

    /// <summary>Whether the digest of a chunk is <paramref name="digest"/>; null when it is not there yet.</summary>
    internal bool? Matches(int tensor, int chunk, ReadOnlySpan<byte> digest)
    {
        int index = _firstChunk[tensor] + chunk;
        return Volatile.Read(ref _states[index]) != Done ? null : DigestAt(index).SequenceEqual(digest);
    }

    /// <summary>Compares all chunks of a tensor with those that another tree of the same table has.</summary>
    /// <returns>The first chunk that differs, -1 when none does, null when either lacks one.</returns>
    internal int? FindDifference(CheckpointDigests other, int tensor)
    {
        for (int chunk = 0; chunk < ChunkCountOf(tensor); chunk++)
        {
            int index = _firstChunk[tensor] + chunk;
            if (Volatile.Read(ref _states[index]) != Done || other.Matches(tensor, chunk, DigestAt(index)) is not bool same)
            {
                return null;
            }
            if (!same)
            {
                return chunk;
            }
        }
        return -1;
    }

    /// <summary>Copies the digests of all chunks of a tensor when all are there.</summary>
    internal bool TryGetChunks(int tensor, Span<byte> destination)
    {
        for (int chunk = _firstChunk[tensor]; chunk < _firstChunk[tensor + 1]; chunk++)
        {
            if (Volatile.Read(ref _states[chunk]) != Done)
            {
                return false;
            }
        }
        _digests.AsSpan(_firstChunk[tensor] * _digestBytes, ChunkCountOf(tensor) * _digestBytes).CopyTo(destination);
        return true;
    }

    /// <summary>Makes the root of a tensor when all its chunks are there.</summary>
    internal bool TryGetRoot(int tensor, Span<byte> destination)
    {
        for (int chunk = _firstChunk[tensor]; chunk < _firstChunk[tensor + 1]; chunk++)
        {
            if (Volatile.Read(ref _states[chunk]) != Done)
            {
                return false;
            }
        }
        TensorDigest.Hash(Algorithm, _digests.AsSpan(_firstChunk[tensor] * _digestBytes, ChunkCountOf(tensor) * _digestBytes), destination);
        return true;
    }

    /// <summary>Hashes every chunk of <paramref name="tensor"/> that nobody has hashed, and waits for those that others are hashing.</summary>
    internal async ValueTask EnsureAsync(HeldCheckpoint checkpoint, int tensor, CancellationToken cancellationToken)
    {
        for (int chunk = 0; chunk < ChunkCountOf(tensor); chunk++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            TryHash(checkpoint, tensor, chunk);
        }
        for (int chunk = _firstChunk[tensor]; chunk < _firstChunk[tensor + 1]; chunk++)
        {
            while (Volatile.Read(ref _states[chunk]) != Done)
            {
                Task someDone;
                lock (_doneLock)
                {
                    someDone = _someDone.Task;
                    _hasWaiters = true;
                }
                if (Volatile.Read(ref _states[chunk]) == Done)
                {
                    break;
                }
                await someDone.WaitAsync(cancellationToken).ConfigureAwait(false);
                TryHash(checkpoint, tensor, chunk - _firstChunk[tensor]);      // who had claimed it may have failed
            }
        }
    }

    /// <summary>Hashes a chunk if nobody has claimed it.</summary>
    internal void TryHash(HeldCheckpoint checkpoint, int tensor, int chunk)
    {
        int index = _firstChunk[tensor] + chunk;
        if (Interlocked.CompareExchange(ref _states[index], Claimed, Untouched) != Untouched)
        {
            return;
        }
        try
        {
            long offset = (long)chunk * TensorDigest.ChunkBytes;
            int length = (int)Math.Min(TensorDigest.ChunkBytes, _tensors.GetByteLength(tensor) - offset);
            checkpoint.Buffers[checkpoint.BufferOf(tensor)].Memory.CheckBackingSize();
            TensorDigest.Hash(Algorithm, checkpoint.GetTensorBytes(tensor, offset, length), DigestAt(index));
        }
        catch
        {
            Volatile.Write(ref _states[index], Untouched);
            Wake();
            throw;
        }
        Finish(index);
    }

    /// <summary>Hashes all chunks that nobody has hashed, from the first to the last.</summary>
    internal void HashAll(HeldCheckpoint checkpoint, CancellationToken cancellationToken)
    {
        for (int tensor = 0; tensor < _tensors.Count; tensor++)
        {
            for (int chunk = 0; chunk < ChunkCountOf(tensor); chunk++)
            {
                cancellationToken.ThrowIfCancellationRequested();
                TryHash(checkpoint, tensor, chunk);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private Span<byte> DigestAt(int index) => _digests.AsSpan(index * _digestBytes, _digestBytes);

    private void Finish(int index)
    {
        Volatile.Write(ref _states[index], Done);
        Interlocked.Increment(ref _doneCount);
        Wake();
    }

    // Waiters are rare (a chunk asked for while it is being hashed); a source is swapped only when somebody took its task.
    private void Wake()
    {
        TaskCompletionSource done;
        lock (_doneLock)
        {
            if (!_hasWaiters)
            {
                return;
            }
            _hasWaiters = false;
            done = _someDone;
            _someDone = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }
        done.TrySetResult();
    }
}
