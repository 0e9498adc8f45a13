using System.Buffers;
using System.Text;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>A pattern, a line feed, a name: matched as by a plain table over both, which is written from the rules of Python's fnmatchcase.</summary>
internal sealed class GlobTarget : FuzzTarget
{
    internal override string Name => "glob";

    internal override int MaxInputBytes => 1024;

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Text(
        "*", "?", "[", "]", "!", "^", "-", "[!", "[^", "[]", "[!]", "[a-c]", "[!a-c]", "[]]", "[c-a]", "[--a]", "[a-]", "**", "*a*a*a*", "\n", "a", "b", "é", "😀", "model.layers.", ".weight");

    internal override string Run(byte[] input)
    {
        int split = input.AsSpan().IndexOf((byte)'\n');
        string pattern = Encoding.UTF8.GetString(input.AsSpan(0, split < 0 ? input.Length : split));
        ReadOnlySpan<byte> name = split < 0 ? default : input.AsSpan(split + 1);
        bool matches = new Glob(pattern).IsMatch(name);
        Check(matches == Reference([.. pattern.EnumerateRunes().Select(rune => rune.Value)], Decode(name)), $"the pattern {(matches ? "matches" : "does not match")}, by the reference it is the other way");
        return matches ? "match" : "no match";
    }

    private static int[] Decode(ReadOnlySpan<byte> name)
    {
        var points = new List<int>();
        while (!name.IsEmpty)
        {
            OperationStatus status = Rune.DecodeFromUtf8(name, out Rune rune, out int bytes);
            points.Add(status == OperationStatus.Done ? rune.Value : 0xFFFD);
            name = name[bytes..];
        }
        return [.. points];
    }

    // reachable[n]: the pattern so far matches the first n characters of the name.
    private static bool Reference(int[] pattern, int[] name)
    {
        bool[] reachable = new bool[name.Length + 1];
        reachable[0] = true;
        for (int at = 0; at < pattern.Length;)
        {
            bool[] next = new bool[reachable.Length];
            if (pattern[at] == '*')
            {
                at++;
                bool any = false;
                for (int n = 0; n < next.Length; n++)
                {
                    next[n] = any |= reachable[n];
                }
            }
            else
            {
                Func<int, bool> one = One(pattern, ref at);
                for (int n = 0; n < name.Length; n++)
                {
                    next[n + 1] = reachable[n] && one(name[n]);
                }
            }
            reachable = next;
        }
        return reachable[name.Length];
    }

    private static Func<int, bool> One(int[] pattern, ref int at)
    {
        int character = pattern[at++];
        if (character == '?')
        {
            return _ => true;
        }
        if (character != '[')
        {
            return point => point == character;
        }
        int first = at < pattern.Length && pattern[at] is (int)'!' or (int)'^' ? at + 1 : at;
        int close = first + 1;
        while (close < pattern.Length && pattern[close] != ']')
        {
            close++;
        }
        if (close >= pattern.Length)
        {
            return point => point == '[';
        }
        bool negated = first != at;
        int[] body = pattern[first..close];
        at = close + 1;
        return point => Holds(body, point) != negated;
    }

    private static bool Holds(ReadOnlySpan<int> body, int point)
    {
        while (!body.IsEmpty)
        {
            if (body.Length >= 3 && body[1] == '-')
            {
                if (body[0] <= point && point <= body[2])
                {
                    return true;
                }
                body = body[3..];
            }
            else if (body[0] == point)
            {
                return true;
            }
            else
            {
                body = body[1..];
            }
        }
        return false;
    }
}
