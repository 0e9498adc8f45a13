using System.IO.Hashing;
using System.Security.Cryptography;

namespace CheckpointEngine.Checkpoints;

/// <summary>
/// The digest of a tensor: the hash of each 4 MiB chunk, counted from the tensor's start, the last maybe short; and the hash over those
/// chunk digests in order, the root. An empty tensor has no chunk, its root is the hash of nothing.
/// </summary>
/// <remarks>XXH3-128 digests are written as 16 big-endian bytes, as XXH128_canonicalFromHash of the reference implementation does.</remarks>
public static class TensorDigest
{
    /// <summary>Bytes of a chunk.</summary>
    public const int ChunkBytes = 4 << 20;

    /// <summary>Bytes of the largest digest.</summary>
    public const int MaxDigestBytes = 32;

    /// <summary>Bytes of one digest.</summary>
    public static int DigestBytes(this DigestAlgorithm algorithm) => algorithm switch
    {
        DigestAlgorithm.Xxh3 => 16,
        DigestAlgorithm.Sha256 => 32,
        _ => 0,
    };

    /// <summary>The prefix of a root in metas, UTF-8: <c>xxh3-128/4m:</c> or <c>sha256/4m:</c>.</summary>
    public static ReadOnlySpan<byte> PrefixUtf8(this DigestAlgorithm algorithm) => algorithm switch
    {
        DigestAlgorithm.Xxh3 => "xxh3-128/4m:"u8,
        DigestAlgorithm.Sha256 => "sha256/4m:"u8,
        _ => default,
    };

    /// <summary>Number of chunks of a tensor of <paramref name="lengthBytes"/>.</summary>
    public static int ChunkCount(long lengthBytes) => checked((int)(lengthBytes / ChunkBytes + (lengthBytes % ChunkBytes == 0 ? 0 : 1)));

    /// <summary>Hashes one chunk, or the concatenated chunk digests into the root.</summary>
    /// <param name="algorithm">Not <see cref="DigestAlgorithm.None"/>.</param>
    /// <param name="bytes">What is hashed.</param>
    /// <param name="destination">Receives <see cref="DigestBytes"/> bytes.</param>
    /// <remarks>Allocates nothing.</remarks>
    public static void Hash(DigestAlgorithm algorithm, ReadOnlySpan<byte> bytes, Span<byte> destination)
    {
        switch (algorithm)
        {
            case DigestAlgorithm.Xxh3 when bytes.Length >= Xxh3State.LeastBytes && Xxh3State.IsSupported:
                Xxh3State.Hash(bytes, destination);
                break;
            case DigestAlgorithm.Xxh3:
                XxHash128.Hash(bytes, destination);
                break;
            case DigestAlgorithm.Sha256:
                SHA256.HashData(bytes, destination);
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(algorithm));
        }
    }

    /// <summary>Reads a root as metas write it.</summary>
    /// <returns>False when it is of no known form; then nothing can be checked against it.</returns>
    public static bool TryParse(ReadOnlySpan<byte> text, out DigestAlgorithm algorithm, Span<byte> destination)
    {
        foreach (DigestAlgorithm candidate in (ReadOnlySpan<DigestAlgorithm>)[DigestAlgorithm.Xxh3, DigestAlgorithm.Sha256])
        {
            if (text.StartsWith(candidate.PrefixUtf8()))
            {
                ReadOnlySpan<byte> hex = text[candidate.PrefixUtf8().Length..];
                algorithm = candidate;
                return hex.Length == candidate.DigestBytes() * 2
                    && Convert.FromHexString(hex, destination, out _, out _) == System.Buffers.OperationStatus.Done;
            }
        }
        algorithm = DigestAlgorithm.None;
        return false;
    }
}
