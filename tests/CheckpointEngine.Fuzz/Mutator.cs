using System.Buffers.Binary;
using System.Text;

namespace CheckpointEngine.Fuzz;

/// <summary>Makes inputs of other inputs: the same ones for the same seed.</summary>
/// <remarks>One thread.</remarks>
internal sealed class Mutator(int seed, IReadOnlyList<byte[]> tokens, int maxBytes)
{
    private static readonly ulong[] s_integers =
    [
        0, 1, 2, 3, 4, 7, 8, 15, 16, 63, 64, 65, 100, 127, 128, 255, 256, 4095, 4096, 4097, 32767, 32768, 65535, 65536, 1 << 20, (1 << 20) + 1, 100_000_000,
        int.MaxValue, 1UL << 31, uint.MaxValue, 1UL << 32, 1UL << 47, (1UL << 53) + 1, 1UL << 56, long.MaxValue, 1UL << 63, ulong.MaxValue - 1, ulong.MaxValue,
    ];

    private static readonly string[] s_numbers =
    [
        "-0", "-1", "00", "01", "0.5", "1.0", "1e2", "1E999", "-9223372036854775808", "9223372036854775808", "18446744073709551616", "340282366920938463463374607431768211456",
    ];

    private readonly Random _random = new(seed);
    private IReadOnlyList<byte[]> _pool = [[]];

    /// <summary>What inputs are spliced with.</summary>
    internal void SetPool(IReadOnlyList<byte[]> pool) => _pool = pool;

    internal int Next(int bound) => _random.Next(bound);

    /// <summary>True in one of <paramref name="oneIn"/> cases.</summary>
    internal bool Chance(int oneIn) => _random.Next(oneIn) == 0;

    internal byte[] Pick() => _pool[_random.Next(_pool.Count)];

    /// <summary>Changes an input in one to eight places.</summary>
    internal byte[] Mutate(ReadOnlySpan<byte> input)
    {
        var bytes = new List<byte>(input.Length + 64);
        bytes.AddRange(input);
        for (int steps = 1 << Next(4); steps > 0; steps--)
        {
            Step(bytes);
        }
        if (bytes.Count > maxBytes)
        {
            bytes.RemoveRange(maxBytes, bytes.Count - maxBytes);
        }
        return [.. bytes];
    }

    private void Step(List<byte> bytes)
    {
        int at = Next(bytes.Count + 1);
        int left = bytes.Count - at;
        switch (Next(14))
        {
            case 0 when left > 0:
                bytes[at] ^= (byte)(1 << Next(8));
                break;
            case 1 when left > 0:
                bytes[at] = (byte)Next(256);
                break;
            case 2:
                WriteInteger(bytes, at, 1 << Next(4), s_integers[Next(s_integers.Length)]);
                break;
            case 3:
                Nudge(bytes, at);
                break;
            case 4:
                bytes.RemoveRange(at, left);
                break;
            case 5 when left > 0:
                bytes.RemoveRange(at, Length(left));
                break;
            case 6 when left > 0:
                bytes.InsertRange(Next(bytes.Count + 1), bytes.GetRange(at, Length(left)));
                break;
            case 7:
                bytes.InsertRange(at, Noise());
                break;
            case 8 or 9 when tokens.Count != 0:
                byte[] token = tokens[Next(tokens.Count)];
                bytes.RemoveRange(at, Chance(2) ? Math.Min(left, token.Length) : 0);
                bytes.InsertRange(at, token);
                break;
            case 10:
                Splice(bytes, at);
                break;
            case 11 or 12:
                ReplaceNumber(bytes, at);
                break;
            case 13 when left > 0:
                bytes.InsertRange(at, Enumerable.Repeat(bytes[at], 1 << Next(10)));
                break;
            default:
                bytes.Insert(at, (byte)Next(256));
                break;
        }
    }

    // Short pieces are likelier: they keep the rest of the structure.
    private int Length(int most) => 1 + Next(Math.Min(most, 1 << Next(11)));

    private byte[] Noise()
    {
        byte[] noise = new byte[1 + Next(16)];
        _random.NextBytes(noise);
        return noise;
    }

    private static void WriteInteger(List<byte> bytes, int at, int width, ulong value)
    {
        for (int i = 0; i < width && at + i < bytes.Count; i++)
        {
            bytes[at + i] = (byte)(value >> (8 * i));
        }
    }

    // A length field that is a little off is worth more than one that is wild.
    private void Nudge(List<byte> bytes, int at)
    {
        Span<byte> field = stackalloc byte[8];
        int width = Math.Min(1 << Next(4), bytes.Count - at);
        for (int i = 0; i < width; i++)
        {
            field[i] = bytes[at + i];
        }
        WriteInteger(bytes, at, width, BinaryPrimitives.ReadUInt64LittleEndian(field) + (ulong)(Next(33) - 16));
    }

    private void Splice(List<byte> bytes, int at)
    {
        byte[] other = Pick();
        int from = Next(other.Length + 1);
        bytes.RemoveRange(at, Chance(2) ? bytes.Count - at : 0);
        bytes.InsertRange(at, other.AsSpan(from, Chance(2) ? other.Length - from : Math.Min(other.Length - from, 1 + Next(64))).ToArray());
    }

    // The first decimal number behind `at`.
    private void ReplaceNumber(List<byte> bytes, int at)
    {
        int start = bytes.FindIndex(at, character => character is >= (byte)'0' and <= (byte)'9');
        if (start < 0)
        {
            return;
        }
        int end = bytes.FindIndex(start, character => character is < (byte)'0' or > (byte)'9');
        end = end < 0 ? bytes.Count : end;
        string number = Chance(3) ? s_numbers[Next(s_numbers.Length)] : (Chance(2) ? s_integers[Next(s_integers.Length)] : (ulong)Next(70_000)).ToString();
        bytes.RemoveRange(start, end - start);
        bytes.InsertRange(start, Encoding.ASCII.GetBytes(number));
    }
}
