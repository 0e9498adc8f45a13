using System.Buffers.Binary;
using System.Net;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>
/// What an owner answers a joiner of a swarm, behind the number of units (4 bytes). What is read is within its limits, and the same once written.
/// </summary>
internal sealed class SwarmAnswerTarget : FuzzTarget
{
    private const int LongestPauseMs = 60_000;
    private const int PauseOffset = 4;

    internal override string Name => "swarm-answer";

    internal override string Folder => "swarm";

    internal override string SeedPattern => "answer-*";

    internal override IReadOnlyList<byte[]> Tokens { get; } =
        [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 127, 0, 0, 1], [0, 4, 0, 0], [1, 0, 1, 32], [0, 0, 32, 0], [0, 4, 32, 32], [1, 4, 33, 31], [0, 0, 0x40, 0], [0x60, 0xEA, 0, 0]];

    internal override string Run(byte[] input)
    {
        if (input.Length < sizeof(int))
        {
            return "short";
        }
        int units = BinaryPrimitives.ReadInt32LittleEndian(input) is var said and > 0 and <= SwarmRequest.MostUnits ? said : 1;
        ReadOnlySpan<byte> bytes = input.AsSpan(sizeof(int));
        if (!SwarmAnswer.TryDecode(bytes, units, out SwarmAnswer answer))
        {
            return "refused";
        }
        int[] given = answer.Given ?? throw new FindingException("an answer without units");
        IPEndPoint[] members = answer.Members ?? throw new FindingException("an answer without members");
        Check(given.Length <= SwarmAnswer.MostGiven && Array.TrueForAll(given, unit => unit >= 0 && unit < units), "it gives a unit that is none, or too many");
        Check(members.Length <= SwarmAnswer.MostMembers && Array.TrueForAll(members, static member => !member.Address.IsIPv4MappedToIPv6), "too many members, or one whose address has two forms");
        Check(answer.Key is null or { Length: SwarmAnswer.KeyBytes } && answer.AskAgainMs is >= 0 and <= LongestPauseMs, "a key or a pause beyond its limit");
        byte[] written = answer.ToBytes();
        byte[] expected = bytes.ToArray();
        BinaryPrimitives.WriteInt32LittleEndian(expected.AsSpan(PauseOffset), answer.AskAgainMs);      // the only thing that is cut
        CheckSame(expected, written, "read and written");
        return $"{Math.Min(given.Length, 2)} units, {Math.Min(members.Length, 2)} members, key {answer.Key is not null}, pause {answer.AskAgainMs == LongestPauseMs}";
    }
}
