using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>One thread's part of a <see cref="CheckpointCopy"/>.</summary>
/// <remarks>
/// A unit that the page cache has is read from there. Any other is read past it, into memory of the thread's own that is aligned for it: that
/// spares a copy in the kernel, and a checkpoint that is held need not be in the page cache as well. Allocates nothing per unit.
/// </remarks>
internal sealed unsafe class UnitCopier(CheckpointCopy copy) : IDisposable
{
    // Read and then hashed while it is in a core's own cache (L2: 256 KiB to 2 MiB); the call costs nothing beside it.
    private const int StepBytes = 256 << 10;

    private MemoryBuffer? _bounce;
    private Xxh3State _hash;
    private bool _inSteps;          // whether the piece in hand is hashed as it comes
    private int _done;              // bytes of the piece in hand that are copied

    /// <summary>Copies one unit.</summary>
    /// <exception cref="CheckpointEngineException">Io: its file could not be read, or ends before.</exception>
    internal void Copy(int unit)
    {
        ReadOnlySpan<CopyPiece> pieces = copy.PiecesOf(unit);
        SafetensorsFile file = copy.FileOf(pieces[0]);
        if (!IsCached(file, pieces))
        {
            copy.WaitForDisk();
            if (copy.DirectOf(pieces[0]) is DirectFile direct && TryCopy(direct, pieces))
            {
                return;
            }
        }
        foreach (ref readonly CopyPiece piece in pieces)
        {
            Begin(piece);
            while (_done < piece.Bytes)
            {
                var destination = new Span<byte>((byte*)piece.Address + _done, Math.Min(StepBytes, piece.Bytes - _done));
                RegularFile.ReadExactly(file.Handle, destination, piece.FileOffset + _done, file.Path);
                Advance(piece, destination.Length);
            }
            copy.Add(piece.Bytes, isDirect: false);
        }
    }

    public void Dispose() => _bounce?.Dispose();

    // By its first, middle and last byte: an exact count costs more than a wrong guess, and older kernels have none. What cannot tell is taken for
    // cached: tmpfs, which always is, and network file systems, whose servers read ahead.
    private static bool IsCached(SafetensorsFile file, ReadOnlySpan<CopyPiece> pieces)
    {
        long first = pieces[0].FileOffset;
        long last = pieces[^1].FileOffset + pieces[^1].Bytes - 1;
        return RegularFile.IsCached(file.Handle, first) is not false
            && RegularFile.IsCached(file.Handle, first + (last - first) / 2) is not false
            && RegularFile.IsCached(file.Handle, last) is not false;
    }

    private bool TryCopy(DirectFile direct, ReadOnlySpan<CopyPiece> pieces)
    {
        _bounce ??= MemoryBuffer.AllocateAnonymous(CheckpointCopy.UnitBytes + 2 * DirectFile.MaxAlignment);
        byte* bounce = (byte*)_bounce.Address;
        long start = pieces[0].FileOffset & -direct.Alignment;
        if (!direct.TryRead(bounce, start, (int)(pieces[^1].FileOffset + pieces[^1].Bytes - start)))
        {
            return false;
        }
        foreach (ref readonly CopyPiece piece in pieces)
        {
            Begin(piece);
            while (_done < piece.Bytes)
            {
                int length = Math.Min(StepBytes, piece.Bytes - _done);
                Buffer.MemoryCopy(bounce + (piece.FileOffset - start) + _done, (byte*)piece.Address + _done, length, length);
                Advance(piece, length);
            }
            copy.Add(piece.Bytes, isDirect: true);
        }
        return true;
    }

    private void Begin(in CopyPiece piece)
    {
        _done = 0;
        _inSteps = copy.Digests is { Algorithm: DigestAlgorithm.Xxh3 } && piece.Bytes > StepBytes && Xxh3State.IsSupported;
        if (_inSteps)
        {
            _hash.Begin(piece.Bytes);
        }
    }

    private void Advance(in CopyPiece piece, int bytes)
    {
        _done += bytes;
        byte* start = (byte*)piece.Address;
        if (_done < piece.Bytes)
        {
            if (_inSteps)
            {
                _hash.Advance(start, _done);
            }
        }
        else if (copy.Digests is CheckpointDigests digests)
        {
            Span<byte> digest = stackalloc byte[TensorDigest.MaxDigestBytes];
            digest = digest[..digests.Algorithm.DigestBytes()];
            if (_inSteps)
            {
                _hash.End(start, digest);
            }
            else
            {
                TensorDigest.Hash(digests.Algorithm, new ReadOnlySpan<byte>(start, piece.Bytes), digest);
            }
            digests.Set(piece.Tensor, piece.Chunk, digest);
        }
    }
}
