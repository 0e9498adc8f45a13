using System.Buffers.Binary;

namespace CheckpointEngine.Relay;

/// <summary>What a joiner tells and asks the owner of the units that it reads: 50 bytes, little-endian, and 4 for each unit of <paramref name="Missing"/>.</summary>
/// <param name="Address">An address of the checkpoint in the owner's memory.</param>
/// <param name="Layout">Which units they are: the same for joiners that read the same, however they lie with them.</param>
/// <param name="Units">How many.</param>
/// <param name="Port">The port of its own handshake listener; 0 while it offers nothing.</param>
/// <param name="Readers">How many read from it.</param>
/// <param name="Members">How many others it wants to be told of.</param>
/// <param name="Wanted">How many more units it can read from the owner.</param>
/// <param name="Pending">Units that it was given and has not read yet.</param>
/// <param name="Done">Units that it has.</param>
/// <param name="Missing">Some units that it lacks, and none of those it knows offers; empty while there is something else to read.</param>
internal readonly record struct SwarmRequest(ulong Address, UInt128 Layout, int Units, int Port, int Readers, int Members, int Wanted, int Pending, int Done, int[] Missing)
{
    // Beside the number of members, of which there are few: owners that know nothing of it tell of as many as they ever do.
    private const int SpeaksShift = 12;
    private const int DemandsShift = 14;
    private const int MembersMask = (1 << SpeaksShift) - 1;
    private const int SecurityMask = 3;

    /// <summary>How its own listeners are guarded.</summary>
    internal RelaySecurity Speaks { get; init; }

    /// <summary>What it demands of the members that it is to be told of.</summary>
    internal RelaySecurity Demands { get; init; }

    /// <summary>The most units: 16 TiB of them.</summary>
    internal const int MostUnits = 1 << 22;

    /// <summary>The most units of <see cref="Missing"/>.</summary>
    internal const int MostMissing = 64;

    private const int Size = 50;

    internal byte[] ToBytes()
    {
        byte[] bytes = new byte[Size + 4 * Missing.Length];
        Span<byte> rest = bytes;
        BinaryPrimitives.WriteUInt64LittleEndian(rest, Address);
        BinaryPrimitives.WriteUInt128LittleEndian(rest[8..], Layout);
        BinaryPrimitives.WriteInt32LittleEndian(rest[24..], Units);
        BinaryPrimitives.WriteUInt16LittleEndian(rest[28..], (ushort)Port);
        BinaryPrimitives.WriteUInt16LittleEndian(rest[30..], (ushort)Readers);
        BinaryPrimitives.WriteUInt16LittleEndian(rest[32..], (ushort)(Math.Min(Members, MembersMask) | (int)Speaks << SpeaksShift | (int)Demands << DemandsShift));
        BinaryPrimitives.WriteInt32LittleEndian(rest[34..], Wanted);
        BinaryPrimitives.WriteInt32LittleEndian(rest[38..], Pending);
        BinaryPrimitives.WriteInt32LittleEndian(rest[42..], Done);
        BinaryPrimitives.WriteInt32LittleEndian(rest[46..], Missing.Length);
        for (int i = 0; i < Missing.Length; i++)
        {
            BinaryPrimitives.WriteInt32LittleEndian(rest[(Size + 4 * i)..], Missing[i]);
        }
        return bytes;
    }

    /// <summary>Reads one; false when it is malformed or beyond a limit.</summary>
    internal static bool TryDecode(ReadOnlySpan<byte> source, out SwarmRequest request)
    {
        request = default;
        if (source.Length < Size || BinaryPrimitives.ReadInt32LittleEndian(source[46..]) is var count && (count is < 0 or > MostMissing || source.Length != Size + 4 * count))
        {
            return false;
        }
        int[] missing = new int[count];
        for (int i = 0; i < count; i++)
        {
            missing[i] = BinaryPrimitives.ReadInt32LittleEndian(source[(Size + 4 * i)..]);
        }
        int members = BinaryPrimitives.ReadUInt16LittleEndian(source[32..]);
        request = new SwarmRequest(
            BinaryPrimitives.ReadUInt64LittleEndian(source),
            BinaryPrimitives.ReadUInt128LittleEndian(source[8..]),
            BinaryPrimitives.ReadInt32LittleEndian(source[24..]),
            BinaryPrimitives.ReadUInt16LittleEndian(source[28..]),
            BinaryPrimitives.ReadUInt16LittleEndian(source[30..]),
            members & MembersMask,
            BinaryPrimitives.ReadInt32LittleEndian(source[34..]),
            BinaryPrimitives.ReadInt32LittleEndian(source[38..]),
            BinaryPrimitives.ReadInt32LittleEndian(source[42..]),
            missing)
        {
            Speaks = (RelaySecurity)((members >> SpeaksShift) & SecurityMask),
            Demands = (RelaySecurity)((members >> DemandsShift) & SecurityMask),
        };
        return request is { Speaks: <= RelaySecurity.Encrypted, Demands: <= RelaySecurity.Encrypted, Units: > 0 and <= MostUnits, Wanted: >= 0, Pending: >= 0, Done: >= 0 } && request.Done <= request.Units;
    }
}
