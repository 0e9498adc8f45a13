using System.Buffers.Binary;

namespace CheckpointEngine.Peers;

/// <summary>The answer to <see cref="PeerMessage.Lease"/> and <see cref="PeerMessage.Release"/>: 20 bytes, little-endian.</summary>
/// <param name="Generation">The generation that the lease is, or was until now, alive for; 0 when there is none, or it was revoked.</param>
/// <param name="SupersededBy">Where <paramref name="Generation"/> is 0: what is held under the same name now; 0 for nothing, or when that is not known.</param>
/// <param name="LifetimeMs">Milliseconds that the lease lives without a word of its holder; 0 where there is none.</param>
internal readonly record struct LeaseAnswer(long Generation, long SupersededBy, uint LifetimeMs)
{
    internal const int Size = 20;

    internal void Encode(Span<byte> destination)
    {
        BinaryPrimitives.WriteInt64LittleEndian(destination, Generation);
        BinaryPrimitives.WriteInt64LittleEndian(destination[8..], SupersededBy);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[16..], LifetimeMs);
    }

    /// <summary>Reads one; false when it has another length, or a generation without a lifetime.</summary>
    internal static bool TryDecode(ReadOnlySpan<byte> source, out LeaseAnswer answer)
    {
        answer = default;
        if (source.Length != Size)
        {
            return false;
        }
        answer = new LeaseAnswer(BinaryPrimitives.ReadInt64LittleEndian(source), BinaryPrimitives.ReadInt64LittleEndian(source[8..]), BinaryPrimitives.ReadUInt32LittleEndian(source[16..]));
        return (answer.Generation != 0) == (answer.LifetimeMs != 0);
    }
}
