using System.Buffers.Binary;
using System.Net;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>
/// What joiners of one swarm ask their owner: 4 bytes of length and a request, again and again, each of the joiner that the length's highest byte names. What is
/// read is within its limits and written as it was; a swarm answers it with what the joiner's own parser takes.
/// </summary>
internal sealed class SwarmRequestTarget : FuzzTarget
{
    private const int Joiners = 3;
    private const int HeaderBytes = 4;
    private const int LengthMask = 0xFFFFFF;
    private const int MostUnits = 1 << 14;      // a swarm of more would spend the time on its memory

    internal override string Name => "swarm-request";

    internal override string Folder => "swarm";

    internal override string SeedPattern => "request-*";

    internal override IReadOnlyList<byte[]> Tokens { get; } =
        [.. ((int[])[0, 1, 50, 54, 64, 65, 306, SwarmRequest.MostUnits, SwarmRequest.MostUnits + 1, -1]).Select(static value => BitConverter.GetBytes(value)), [50, 0, 0, 1], [50, 0, 0, 2]];

    internal override string Run(byte[] input)
    {
        Swarm? swarm = null;
        var seats = new Swarm.Seat?[Joiners];
        TimeSpan now = TimeSpan.Zero;
        var outcome = new HashSet<string>();
        for (ReadOnlySpan<byte> rest = input; rest.Length >= HeaderBytes;)
        {
            uint header = BinaryPrimitives.ReadUInt32LittleEndian(rest);
            rest = rest[HeaderBytes..];
            ReadOnlySpan<byte> bytes = rest[..Math.Min(rest.Length, (int)(header & LengthMask))];
            rest = rest[bytes.Length..];
            if (!SwarmRequest.TryDecode(bytes, out SwarmRequest request))
            {
                outcome.Add("refused");
                continue;
            }
            Check(request is { Units: > 0 and <= SwarmRequest.MostUnits, Wanted: >= 0, Pending: >= 0, Done: >= 0, Missing.Length: <= SwarmRequest.MostMissing } && request.Done <= request.Units, "a request beyond a limit");
            CheckSame(bytes, request.ToBytes(), "read and written");
            if (request.Units > MostUnits)
            {
                outcome.Add("large");
                continue;
            }
            swarm ??= new Swarm(request.Units, new Random(0));
            int joiner = (int)(header >> 24) % Joiners;
            Swarm.Seat seat = seats[joiner] ??= swarm.Enter(new IPAddress([10, 0, 0, (byte)joiner]), now);
            now += Swarm.StallTime / 4;
            outcome.Add(CheckAnswer(swarm, seat.Ask(request, now)));
        }
        foreach (Swarm.Seat? seat in seats)
        {
            seat?.Dispose();
        }
        Check(swarm is not { Count: not 0 }, "a joiner that has left is still there");
        return string.Join(", ", outcome.Order(StringComparer.Ordinal));
    }

    private static string CheckAnswer(Swarm swarm, in SwarmAnswer answer)
    {
        byte[] written = answer.ToBytes();
        Check(written.Length <= SwarmAnswer.MaxSize, $"an answer of {written.Length:N0} bytes");
        Check(SwarmAnswer.TryDecode(written, swarm.Units, out SwarmAnswer read), "an answer that a joiner refuses");
        CheckSame(written, read.ToBytes(), "an answer read and written");
        Check(answer.Incomplete >= 0 && answer.Incomplete <= swarm.Count, $"{answer.Incomplete} of {swarm.Count} joiners lack something");
        return $"{Math.Min(read.Given!.Length, 2)} units, {read.Members!.Length} members";
    }
}
