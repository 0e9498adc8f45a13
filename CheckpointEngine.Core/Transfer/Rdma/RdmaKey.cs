using System.Buffers.Binary;
using System.Security.Cryptography;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>What the two ends of a lease prove to each other when they connect queue pairs; both make it, each from the key of their conversation.</summary>
/// <remarks>Any number of threads.</remarks>
/// <param name="number">Which of those that the owner has given; random.</param>
/// <param name="secret">32 bytes.</param>
internal sealed class RdmaKey(UInt128 number, byte[] secret)
{
    internal const int NumberBytes = 16;

    /// <summary>Of what the owner tells of it: random, and as secret as the conversation; where a token is proved the key needs that as well.</summary>
    internal const int SaltBytes = 32;

    private ulong _last;

    /// <summary>Which of those that the owner has given.</summary>
    internal UInt128 Number => number;

    /// <summary>What messages are signed with.</summary>
    internal byte[] Secret => secret;

    /// <summary>The number of the asker's next message: from 1 on, each once.</summary>
    internal ulong TakeSequence() => Interlocked.Increment(ref _last);

    internal static RdmaKey Make(ReadOnlySpan<byte> conversationKey, UInt128 number, ReadOnlySpan<byte> salt)
    {
        Span<byte> numberBytes = stackalloc byte[NumberBytes];
        BinaryPrimitives.WriteUInt128LittleEndian(numberBytes, number);
        byte[] message = [.. "checkpoint-engine/1 rdma key"u8, .. numberBytes, .. salt];
        return new RdmaKey(number, HMACSHA256.HashData(conversationKey, message));
    }
}
