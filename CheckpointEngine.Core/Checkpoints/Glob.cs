using System.Buffers;
using System.Text;

namespace CheckpointEngine.Checkpoints;

/// <summary>
/// A pattern over whole tensor names: <c>*</c> any run of characters (dots and slashes too), <c>?</c> one character, <c>[a-c]</c> and
/// <c>[!a-c]</c> (or <c>^</c>) one of a set; case counts. As Python's fnmatchcase: a <c>[</c> that is never closed stands for itself.
/// </summary>
/// <remarks>Immutable; any number of threads. A match takes at most pattern length times name length steps and allocates nothing.</remarks>
internal sealed class Glob
{
    private const int Any = -1;
    private const int Run = -2;
    private const int FirstSet = -3;              // and below: set number FirstSet - item

    private readonly int[] _items;                // a code point, or one of the above
    private readonly List<Set> _sets = [];

    internal Glob(string pattern)
    {
        ArgumentNullException.ThrowIfNull(pattern);
        Pattern = pattern;
        int[] points = [.. pattern.EnumerateRunes().Select(rune => rune.Value)];
        var items = new List<int>(points.Length);
        for (int i = 0; i < points.Length; i++)
        {
            switch (points[i])
            {
                case '*':
                    if (items.Count == 0 || items[^1] != Run)
                    {
                        items.Add(Run);
                    }
                    break;
                case '?':
                    items.Add(Any);
                    break;
                case '[' when FindSetEnd(points, i) is > 0 and int end:
                    items.Add(FirstSet - _sets.Count);
                    _sets.Add(Set.Parse(points.AsSpan(i + 1, end - i - 1)));
                    i = end;
                    break;
                default:
                    items.Add(points[i]);
                    break;
            }
        }
        _items = [.. items];
    }

    /// <summary>The pattern as given.</summary>
    internal string Pattern { get; }

    /// <summary>Whether the pattern matches the whole name; a byte that is not UTF-8 counts as one character U+FFFD.</summary>
    internal bool IsMatch(ReadOnlySpan<byte> nameUtf8)
    {
        int item = 0, at = 0;
        int runItem = -1, runAt = 0;              // the last run seen and where it ends so far; earlier runs never need to grow again
        while (at < nameUtf8.Length)
        {
            if (item < _items.Length && _items[item] == Run)
            {
                runItem = item++;
                runAt = at;
                continue;
            }
            int point = Decode(nameUtf8[at..], out int bytes);
            if (item < _items.Length && Matches(_items[item], point))
            {
                item++;
                at += bytes;
            }
            else if (runItem >= 0)
            {
                Decode(nameUtf8[runAt..], out int skipped);
                runAt += skipped;
                at = runAt;
                item = runItem + 1;
            }
            else
            {
                return false;
            }
        }
        return item == _items.Length || (item == _items.Length - 1 && _items[item] == Run);
    }

    private bool Matches(int item, int point) => item switch
    {
        Any => true,
        <= FirstSet => _sets[FirstSet - item].Contains(point),
        _ => item == point,
    };

    private static int Decode(ReadOnlySpan<byte> text, out int bytes)
        => Rune.DecodeFromUtf8(text, out Rune rune, out bytes) == OperationStatus.Done ? rune.Value : Rune.ReplacementChar.Value;

    // A ']' that comes first is a member of its set, not its end.
    private static int FindSetEnd(int[] points, int open)
    {
        int from = open + 1;
        if (from < points.Length && points[from] is '!' or '^')
        {
            from++;
        }
        return from + 1 < points.Length ? Array.IndexOf(points, ']', from + 1) : -1;
    }

    private sealed record Set(bool Negated, (int First, int Last)[] Ranges)
    {
        internal static Set Parse(ReadOnlySpan<int> body)
        {
            bool negated = body[0] is '!' or '^';
            body = negated ? body[1..] : body;
            var ranges = new List<(int, int)>();
            for (int i = 0; i < body.Length; i++)
            {
                bool range = i + 2 < body.Length && body[i + 1] == '-';
                ranges.Add((body[i], range ? body[i + 2] : body[i]));
                i += range ? 2 : 0;
            }
            return new Set(negated, [.. ranges]);
        }

        internal bool Contains(int point)
        {
            foreach ((int first, int last) in Ranges)
            {
                if (first <= point && point <= last)
                {
                    return !Negated;
                }
            }
            return Negated;
        }
    }
}
