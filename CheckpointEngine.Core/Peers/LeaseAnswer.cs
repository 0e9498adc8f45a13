using System.Buffers.Binary;

namespace CheckpointEngine.Peers;

/// <summary>The answer to <see cref="PeerMessage.Lease"/> and <see cref="PeerMessage.Release"/>: 24 bytes, little-endian, and the lane key where there is one.</summary>
/// <param name="Generation">The generation that the lease is, or was until now, alive for; 0 when there is none, or it was revoked.</param>
/// <param name="SupersededBy">Where <paramref name="Generation"/> is 0: what is held under the same name now; 0 for nothing, or when that is not known.</param>
/// <param name="LifetimeMs">Milliseconds that the lease lives without a word of its holder; 0 where there is none.</param>
/// <param name="Readers">Leases that the owner has out at this moment, this one among them; 0 where there is none.</param>
/// <param name="LaneKey">What proves on a data connection that there is a lease, in place of the token; null when that is not asked for.</param>
internal readonly record struct LeaseAnswer(long Generation, long SupersededBy, uint LifetimeMs, uint Readers, byte[]? LaneKey = null)
{
    internal const int LaneKeyBytes = 32;

    internal const int MaxSize = Size + LaneKeyBytes;

    private const int Size = 24;

    internal byte[] ToBytes()
    {
        byte[] bytes = new byte[Size + (LaneKey?.Length ?? 0)];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, Generation);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(8), SupersededBy);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(16), LifetimeMs);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(20), Readers);
        LaneKey?.CopyTo(bytes, Size);
        return bytes;
    }

    /// <summary>Reads one; false when it has another length, or a generation without a lifetime or without its own reader.</summary>
    internal static bool TryDecode(ReadOnlySpan<byte> source, out LeaseAnswer answer)
    {
        answer = default;
        if (source.Length is not (Size or MaxSize))
        {
            return false;
        }
        answer = new LeaseAnswer(BinaryPrimitives.ReadInt64LittleEndian(source), BinaryPrimitives.ReadInt64LittleEndian(source[8..]), BinaryPrimitives.ReadUInt32LittleEndian(source[16..]),
            BinaryPrimitives.ReadUInt32LittleEndian(source[20..]), source.Length == MaxSize ? source[Size..].ToArray() : null);
        return (answer.Generation != 0) == (answer.LifetimeMs != 0) && (answer.Generation != 0) == (answer.Readers != 0);
    }
}
