using System.Buffers.Binary;
using System.Security.Cryptography;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>What the two ends of a lease prove to each other when they connect queue pairs; both make it, each from the key of their conversation.</summary>
/// <param name="Number">Which of those that the owner has given; random.</param>
/// <param name="Secret">32 bytes.</param>
internal sealed record RdmaKey(UInt128 Number, byte[] Secret)
{
    internal const int NumberBytes = 16;

    /// <summary>Of what the owner tells of it: random, and as secret as the conversation; where a token is proved the key needs that as well.</summary>
    internal const int SaltBytes = 32;

    internal static RdmaKey Make(ReadOnlySpan<byte> conversationKey, UInt128 number, ReadOnlySpan<byte> salt)
    {
        Span<byte> numberBytes = stackalloc byte[NumberBytes];
        BinaryPrimitives.WriteUInt128LittleEndian(numberBytes, number);
        byte[] message = [.. "checkpoint-engine/1 rdma key"u8, .. numberBytes, .. salt];
        return new RdmaKey(number, HMACSHA256.HashData(conversationKey, message));
    }
}
