using System.Globalization;

namespace CheckpointEngine.Internal;

/// <summary>How far the NUMA nodes of a host are from each other, as its firmware says.</summary>
/// <remarks>Immutable; any number of threads. Source: /sys/devices/system/node/node*/distance.</remarks>
internal sealed class NumaDistances
{
    private const int Local = 10;
    private const int Remote = 20;        // what Linux takes where the firmware says nothing
    private const int MaxNodes = 1024;

    private readonly int[]?[] _rows;
    private readonly int[] _columns;      // by node: its place in the rows, where only nodes count that are there

    /// <param name="rows">By node, null where there is none: the distances to all nodes that are there, as the kernel writes them: <c>10 21</c>.</param>
    internal NumaDistances(string?[] rows)
    {
        _rows = new int[rows.Length][];
        _columns = new int[rows.Length];
        for (int node = 0; node < rows.Length; node++)
        {
            _rows[node] = rows[node] is string row ? Parse(row) : null;
            _columns[node] = Nodes;
            Nodes += rows[node] is null ? 0 : 1;
        }
    }

    /// <summary>Those of this host.</summary>
    internal static NumaDistances Host => field ??= Read("/sys/devices/system/node");

    /// <summary>How many nodes there are; 0 where the kernel does not say.</summary>
    internal int Nodes { get; }

    /// <summary>From a node to another, 10 being the way to itself.</summary>
    internal int Between(int from, int to)
    {
        int known = RowOf(from) is int[] row && RowOf(to) is not null && _columns[to] < row.Length ? row[_columns[to]] : 0;
        return known > 0 ? known : from == to ? Local : Remote;
    }

    internal static NumaDistances Read(string directory)
    {
        var rows = new List<string?>();
        for (int node = 0; node < MaxNodes; node++)
        {
            string path = string.Create(CultureInfo.InvariantCulture, $"{directory}/node{node}/distance");
            if (!File.Exists(path))
            {
                continue;
            }
            while (rows.Count < node)
            {
                rows.Add(null);
            }
            try
            {
                rows.Add(File.ReadAllText(path));
            }
            catch (Exception unreadable) when (unreadable is IOException or UnauthorizedAccessException)
            {
                rows.Add("");
            }
        }
        return new NumaDistances([.. rows]);
    }

    private int[]? RowOf(int node) => (uint)node < (uint)_rows.Length ? _rows[node] : null;

    private static int[] Parse(string row)
    {
        string[] words = row.Split(' ', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        int[] distances = new int[words.Length];
        for (int i = 0; i < words.Length; i++)
        {
            _ = int.TryParse(words[i], NumberStyles.None, CultureInfo.InvariantCulture, out distances[i]);
        }
        return distances;
    }
}
