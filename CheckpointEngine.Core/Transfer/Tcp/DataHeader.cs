using System.Buffers.Binary;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>The 24 bytes that begin a request on Mooncake's data port: size, address, opcode, seven bytes that mean nothing.</summary>
/// <param name="LengthBytes">Payload bytes.</param>
/// <param name="Address">Virtual address in the target.</param>
/// <param name="Opcode">Low seven bits <see cref="Read"/> or <see cref="Write"/> or, between our own, <see cref="Challenge"/>; <see cref="Acknowledged"/> asks for version 2 framing.</param>
internal readonly record struct DataHeader(ulong LengthBytes, ulong Address, byte Opcode)
{
    internal const int Size = 24;
    internal const byte Read = 0;
    internal const byte Write = 1;

    /// <summary>Ours: proves a token before the first request. Sent only to a peer that announced itself as one of ours.</summary>
    internal const byte Challenge = 0x43;

    /// <summary>Version 2: the answer begins with a status.</summary>
    internal const byte Acknowledged = 0x80;

    /// <summary>Bytes of a status.</summary>
    internal const int StatusSize = 8;

    private const ulong StatusMagic = 0x4D43_5456UL << 32;    // "MCTV"

    internal const ulong StatusOk = StatusMagic;
    internal const ulong StatusRejected = StatusMagic | 1;

    internal byte Operation => (byte)(Opcode & 0x7f);

    internal bool IsAcknowledged => (Opcode & Acknowledged) != 0;

    internal void Encode(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(destination, LengthBytes);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[8..], Address);
        destination[16] = Opcode;
        destination[17..Size].Clear();
    }

    internal static DataHeader Decode(ReadOnlySpan<byte> source)
        => new(BinaryPrimitives.ReadUInt64LittleEndian(source), BinaryPrimitives.ReadUInt64LittleEndian(source[8..]), source[16]);
}
