using System.Globalization;

namespace CheckpointEngine.Internal;

/// <summary>How far the NUMA nodes of a host are from each other, as its firmware says.</summary>
/// <remarks>Immutable; any number of threads. Source: /sys/devices/system/node/node*/distance.</remarks>
internal sealed class NumaDistances
{
    private const int Local = 10;
    private const int Remote = 20;        // what Linux takes where the firmware says nothing
    private const int MaxNodes = 1024;

    private readonly Dictionary<int, int[]> _rows = [];

    /// <param name="rows">By node: the distances to all nodes, as the kernel writes them: <c>10 21</c>.</param>
    internal NumaDistances(Dictionary<int, string> rows)
    {
        foreach ((int node, string row) in rows)
        {
            string[] words = row.Split(' ', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
            _rows[node] = Array.ConvertAll(words, static word => int.TryParse(word, NumberStyles.None, CultureInfo.InvariantCulture, out int distance) ? distance : 0);
        }
    }

    /// <summary>Those of this host.</summary>
    internal static NumaDistances Host => field ??= Read("/sys/devices/system/node");

    /// <summary>How many nodes there are; 0 where the kernel does not say.</summary>
    internal int Nodes => _rows.Count;

    /// <summary>From a node to another, 10 being the way to itself.</summary>
    internal int Between(int from, int to)
    {
        int known = _rows.TryGetValue(from, out int[]? row) && (uint)to < (uint)row.Length ? row[to] : 0;
        return known > 0 ? known : from == to ? Local : Remote;
    }

    internal static NumaDistances Read(string directory)
    {
        var rows = new Dictionary<int, string>();
        for (int node = 0; node < MaxNodes; node++)
        {
            string path = string.Create(CultureInfo.InvariantCulture, $"{directory}/node{node}/distance");
            if (File.Exists(path))
            {
                try
                {
                    rows.Add(node, File.ReadAllText(path));
                }
                catch (Exception unreadable) when (unreadable is IOException or UnauthorizedAccessException)
                {
                    rows.Add(node, "");
                }
            }
        }
        return new NumaDistances(rows);
    }
}
