using System.Buffers;
using System.Buffers.Binary;

namespace CheckpointEngine.Peers;

/// <summary>What a frame of the peer conversation carries. A request is answered by a frame of the same type or by <see cref="Error"/>.</summary>
internal enum PeerMessage : ushort
{
    /// <summary>Who is there, and a nonce; the first frame of both sides.</summary>
    Hello = 1,

    /// <summary>A proof of the token, each side one; after Hello when the server demands it.</summary>
    Proof = 2,

    /// <summary>The metas of a checkpoint by name, as JSON.</summary>
    Metas = 3,

    /// <summary>The chunk digests of tensors, by address and length.</summary>
    Digests = 4,

    /// <summary>The side files of the checkpoint that an address belongs to.</summary>
    SideFiles = 5,

    /// <summary>Takes a lease on the checkpoint that an address belongs to, or says whether the one that was taken is still alive.</summary>
    Lease = 6,

    /// <summary>How the memory at an address can be reached on this host, with a descriptor where there is one; over a Unix socket only.</summary>
    Memory = 7,

    /// <summary>Gives a lease back, and asks whether it was alive until now.</summary>
    Release = 8,

    /// <summary>The metas of a checkpoint once they are others than those that the asker has.</summary>
    Follow = 9,

    /// <summary>What a joiner has of the units that it and others read, and what it is to read next; of the owner.</summary>
    Swarm = 10,

    /// <summary>Where the units lie that a joiner offers to others; of a joiner.</summary>
    Offer = 11,

    /// <summary>Which units a joiner has, from one on, once there are more of them; of a joiner.</summary>
    Have = 12,

    /// <summary>Where the segment lies for RDMA, and what queue pairs are connected with; for a lease.</summary>
    Rdma = 13,

    /// <summary>Why a request was not answered; the conversation goes on unless the peer closes it.</summary>
    Error = 0xffff,
}

/// <summary>The eight bytes before each message: length of the payload, type, two bytes of zero. All little-endian.</summary>
internal readonly record struct PeerFrame(PeerMessage Type, int LengthBytes)
{
    internal const int HeaderBytes = 8;

    /// <summary>The largest payload of a request, and of an answer that is read whole.</summary>
    internal const int MaxSmallBytes = 1 << 20;

    /// <summary>The largest payload before the token is proved.</summary>
    internal const int MaxIntroductionBytes = 16 << 10;

    internal void Encode(Span<byte> destination)
    {
        BinaryPrimitives.WriteInt32LittleEndian(destination, LengthBytes);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[4..], (ushort)Type);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[6..], 0);
    }

    /// <summary>Reads a header; false when its length is negative or above <paramref name="maxBytes"/>, or its last bytes are not zero.</summary>
    internal static bool TryDecode(ReadOnlySpan<byte> source, int maxBytes, out PeerFrame frame)
    {
        frame = new PeerFrame((PeerMessage)BinaryPrimitives.ReadUInt16LittleEndian(source[4..]), BinaryPrimitives.ReadInt32LittleEndian(source));
        return frame.LengthBytes >= 0 && frame.LengthBytes <= maxBytes && BinaryPrimitives.ReadUInt16LittleEndian(source[6..]) == 0;
    }

    internal static bool TryDecode(in ReadOnlySequence<byte> source, int maxBytes, out PeerFrame frame)
    {
        Span<byte> header = stackalloc byte[HeaderBytes];
        source.Slice(0, HeaderBytes).CopyTo(header);
        return TryDecode(header, maxBytes, out frame);
    }
}
