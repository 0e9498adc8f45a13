using System.Buffers.Binary;
using System.Net;

namespace CheckpointEngine.Relay;

/// <summary>What an owner tells a joiner of its swarm: 12 bytes, little-endian, 32 for the key where there is one, 4 for each unit, 18 for each member.</summary>
/// <param name="Given">Units that it is to read from the owner, in that order.</param>
/// <param name="Members">Others that offer what they have: their handshake listeners.</param>
/// <param name="Incomplete">Joiners of the swarm that lack something, the asker included.</param>
/// <param name="AskAgainMs">When to ask again if nothing happens, in milliseconds.</param>
/// <param name="Key">What members prove to each other; null when none is demanded.</param>
internal readonly record struct SwarmAnswer(int[]? Given, IPEndPoint[]? Members, int Incomplete, int AskAgainMs, byte[]? Key = null)
{
    /// <summary>The most members that are told.</summary>
    internal const int MostMembers = 32;

    /// <summary>The most units that are given at a time.</summary>
    internal const int MostGiven = 1024;

    internal const int KeyBytes = 32;

    /// <summary>The most bytes of one.</summary>
    internal const int MaxSize = Size + KeyBytes + 4 * MostGiven + MemberBytes * MostMembers;

    private const int Size = 12;
    private const int MemberBytes = 18;
    private const int LongestPauseMs = 60_000;

    internal byte[] ToBytes()
    {
        int[] given = Given ?? [];
        IPEndPoint[] members = Members ?? [];
        byte[] bytes = new byte[Size + (Key?.Length ?? 0) + 4 * given.Length + MemberBytes * members.Length];
        Span<byte> rest = bytes;
        BinaryPrimitives.WriteInt32LittleEndian(rest, Incomplete);
        BinaryPrimitives.WriteUInt32LittleEndian(rest[4..], (uint)AskAgainMs);
        BinaryPrimitives.WriteUInt16LittleEndian(rest[8..], (ushort)given.Length);
        rest[10] = (byte)members.Length;
        rest[11] = (byte)(Key?.Length ?? 0);
        Key?.CopyTo(rest[Size..]);
        rest = rest[(Size + (Key?.Length ?? 0))..];
        foreach (int unit in given)
        {
            BinaryPrimitives.WriteInt32LittleEndian(rest, unit);
            rest = rest[4..];
        }
        foreach (IPEndPoint member in members)
        {
            member.Address.MapToIPv6().TryWriteBytes(rest, out _);
            BinaryPrimitives.WriteUInt16LittleEndian(rest[16..], (ushort)member.Port);
            rest = rest[MemberBytes..];
        }
        return bytes;
    }

    /// <summary>Reads one; false when it is malformed, beyond a limit, or gives a unit that is none.</summary>
    /// <param name="source">The bytes.</param>
    /// <param name="units">Number of units of the swarm.</param>
    /// <param name="answer">The answer.</param>
    internal static bool TryDecode(ReadOnlySpan<byte> source, int units, out SwarmAnswer answer)
    {
        answer = default;
        if (source.Length < Size)
        {
            return false;
        }
        int given = BinaryPrimitives.ReadUInt16LittleEndian(source[8..]);
        int members = source[10];
        int key = source[11];
        if (given > MostGiven || members > MostMembers || key is not (0 or KeyBytes) || source.Length != Size + key + 4 * given + MemberBytes * members)
        {
            return false;
        }
        var unitsGiven = new int[given];
        var endPoints = new IPEndPoint[members];
        ReadOnlySpan<byte> rest = source[(Size + key)..];
        for (int i = 0; i < given; i++, rest = rest[4..])
        {
            unitsGiven[i] = BinaryPrimitives.ReadInt32LittleEndian(rest);
            if ((uint)unitsGiven[i] >= (uint)units)
            {
                return false;
            }
        }
        for (int i = 0; i < members; i++, rest = rest[MemberBytes..])
        {
            var address = new IPAddress(rest[..16]);
            endPoints[i] = new IPEndPoint(address.IsIPv4MappedToIPv6 ? address.MapToIPv4() : address, BinaryPrimitives.ReadUInt16LittleEndian(rest[16..]));
        }
        answer = new SwarmAnswer(unitsGiven, endPoints, BinaryPrimitives.ReadInt32LittleEndian(source),
            (int)Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(source[4..]), LongestPauseMs), key == 0 ? null : source.Slice(Size, key).ToArray());
        return true;
    }
}
