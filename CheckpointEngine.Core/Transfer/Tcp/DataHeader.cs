using System.Buffers.Binary;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>The 24 bytes that begin a request on Mooncake's data port: size, address, opcode, seven bytes that mean nothing.</summary>
/// <param name="LengthBytes">Payload bytes.</param>
/// <param name="Address">Virtual address in the target.</param>
/// <param name="Opcode">Low seven bits <see cref="Read"/> or <see cref="Write"/> or, between our own, <see cref="LineRead"/> or <see cref="Challenge"/>; <see cref="Acknowledged"/> asks for version 2 framing.</param>
internal readonly record struct DataHeader(ulong LengthBytes, ulong Address, byte Opcode)
{
    internal const int Size = 24;
    internal const byte Read = 0;
    internal const byte Write = 1;

    /// <summary>Ours: proves a token before the first request. Sent only to a peer that announced itself as one of ours.</summary>
    internal const byte Challenge = 0x43;

    /// <summary>Ours: a read whose status is <see cref="LineStatusSize"/> long. Sent only to a peer that announced itself as one of ours, with <see cref="Acknowledged"/>.</summary>
    internal const byte LineRead = 0x52;

    /// <summary>Version 2: the answer begins with a status.</summary>
    internal const byte Acknowledged = 0x80;

    /// <summary>Bytes of a status.</summary>
    internal const int StatusSize = 8;

    /// <summary>Bytes of the status of a <see cref="LineRead"/>: the status and zeros.</summary>
    /// <remarks>
    /// The kernel copies what is sent to the head of a page. Eight bytes of status make it copy memory that lies at a page's start to eight bytes behind
    /// one, and <c>rep movsb</c>, which it copies with, falls from 44 to 3 GiB/s on AMD's Zen when the destination lies 1 to 15 bytes behind the source
    /// modulo 4096 (to half up to 31). With a cache line between them that cannot be, for sources that are aligned to one.
    /// </remarks>
    internal const int LineStatusSize = 64;

    private const ulong StatusMagic = 0x4D43_5456UL << 32;    // "MCTV"

    internal const ulong StatusOk = StatusMagic;
    internal const ulong StatusRejected = StatusMagic | 1;

    internal byte Operation => (byte)(Opcode & 0x7f);

    internal bool IsAcknowledged => (Opcode & Acknowledged) != 0;

    /// <summary>Bytes before the payload of the answer, or in its place.</summary>
    internal int AnswerStatusSize => !IsAcknowledged ? 0 : Operation == LineRead ? LineStatusSize : StatusSize;

    internal void Encode(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(destination, LengthBytes);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[8..], Address);
        destination[16] = Opcode;
        destination[17..Size].Clear();
    }

    internal static DataHeader Decode(ReadOnlySpan<byte> source)
        => new(BinaryPrimitives.ReadUInt64LittleEndian(source), BinaryPrimitives.ReadUInt64LittleEndian(source[8..]), source[16]);

    /// <summary>Puts a <see cref="Access.TokenChallenge.Hint"/> into the seven bytes that mean nothing to others, of a header that is encoded.</summary>
    internal static void EncodeHint(Span<byte> header, ulong hint)
        => BinaryPrimitives.WriteUInt64LittleEndian(header[(Size - 8)..], (hint << 8) | header[Size - 8]);

    /// <summary>The hint of a <see cref="Challenge"/>; 0 when it has none.</summary>
    internal static ulong DecodeHint(ReadOnlySpan<byte> header) => BinaryPrimitives.ReadUInt64LittleEndian(header[(Size - 8)..]) >> 8;
}
