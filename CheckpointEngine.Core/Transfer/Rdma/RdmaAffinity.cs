using System.Globalization;
using CheckpointEngine.Internal;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Which devices are near which memory: what a holder tells of its own, and what a reader makes of a holder's word.</summary>
/// <remarks>Pure. Source: docs/mooncake-wire.md, 3.3 and 5.</remarks>
internal static class RdmaAffinity
{
    /// <summary>Memory that lies on several nodes, or nobody knows where.</summary>
    internal const int AnyNode = -1;

    private const string AnyLocation = "*";

    /// <summary>A cost is of this at most: none of the bytes are near.</summary>
    internal const int MaxCost = 1000;

    /// <summary>Mooncake's name for where memory is.</summary>
    internal static string LocationOf(int node) => node < 0 ? AnyLocation : string.Create(CultureInfo.InvariantCulture, $"cpu:{node}");

    /// <summary>Which devices are nearest to memory: all of them when nobody knows where it is, and those always of which nobody knows.</summary>
    /// <param name="memoryNode">The node of the memory, or <see cref="AnyNode"/>.</param>
    /// <param name="deviceNodes">By device; -1 where it hangs on none.</param>
    /// <param name="distances">The host's.</param>
    internal static bool[] Near(int memoryNode, int[] deviceNodes, NumaDistances distances)
    {
        int nearest = int.MaxValue;
        foreach (int node in deviceNodes)
        {
            nearest = node >= 0 && memoryNode >= 0 ? Math.Min(nearest, distances.Between(memoryNode, node)) : nearest;
        }
        bool[] near = new bool[deviceNodes.Length];
        for (int device = 0; device < near.Length; device++)
        {
            near[device] = deviceNodes[device] < 0 || memoryNode < 0 || distances.Between(memoryNode, deviceNodes[device]) == nearest;
        }
        return near;
    }

    /// <summary>The matrix for some places of memory: each names all devices, the near ones as preferred.</summary>
    /// <param name="memoryNodes">Where memory is, in any order, with repetitions.</param>
    /// <param name="names">The devices.</param>
    /// <param name="deviceNodes">Their nodes.</param>
    /// <param name="distances">The host's.</param>
    /// <param name="order">
    /// Receives the devices' order in which they are to be told. A real initiator numbers them as it meets them in the matrix, whose entries it walks in
    /// an order of its own; the entry whose name sorts last was seen to come first. Where it is not, names and keys still belong together.
    /// </param>
    internal static DeviceAffinity[] Matrix(int[] memoryNodes, string[] names, int[] deviceNodes, NumaDistances distances, out int[] order)
    {
        var matrix = new List<DeviceAffinity>();
        order = [];
        foreach (int node in memoryNodes)
        {
            Add(LocationOf(node), node, ref order);
        }
        if (matrix.Count == 0)
        {
            Add(LocationOf(0), AnyNode, ref order);
        }
        matrix.Sort(static (a, b) => string.CompareOrdinal(a.Location, b.Location));
        return [.. matrix];

        void Add(string location, int node, ref int[] order)
        {
            if (matrix.Exists(entry => entry.Location == location))
            {
                return;
            }
            bool[] near = Near(node, deviceNodes, distances);
            int[] preferred = Where(near, true);
            int[] others = Where(near, false);
            if (matrix.TrueForAll(entry => string.CompareOrdinal(entry.Location, location) < 0))
            {
                order = [.. preferred, .. others];
            }
            matrix.Add(new DeviceAffinity(location, NamesOf(preferred), NamesOf(others)));
        }

        string[] NamesOf(int[] devices)
        {
            string[] chosen = new string[devices.Length];
            for (int i = 0; i < chosen.Length; i++)
            {
                chosen[i] = names[devices[i]];
            }
            return chosen;
        }
    }

    /// <summary>How far an owner's devices are from its memory, by its own word: for each the share of the bytes that it is not preferred for.</summary>
    /// <param name="buffers">Its memory.</param>
    /// <param name="matrix">Its word; a place that it does not name has no preference.</param>
    /// <param name="names">Its devices.</param>
    /// <returns>From 0 to <see cref="MaxCost"/>.</returns>
    internal static int[] CostsByMatrix(SegmentBuffer[] buffers, DeviceAffinity[] matrix, string[] names)
    {
        var bytes = new Dictionary<string, long>(StringComparer.Ordinal);
        double all = 0;
        foreach (SegmentBuffer buffer in buffers)
        {
            long length = (long)Math.Min(buffer.LengthBytes, 1UL << 50);
            bytes[buffer.Name] = bytes.GetValueOrDefault(buffer.Name) + length;
            all += length;
        }
        double[] far = new double[names.Length];
        foreach (DeviceAffinity entry in matrix)
        {
            long here = entry.Preferred.Length == 0 ? 0 : bytes.GetValueOrDefault(entry.Location);
            for (int device = 0; device < names.Length && here != 0; device++)
            {
                far[device] += Array.IndexOf(entry.Preferred, names[device]) < 0 ? here : 0;
            }
        }
        int[] costs = new int[far.Length];
        for (int device = 0; device < costs.Length; device++)
        {
            costs[device] = all == 0 ? 0 : (int)(MaxCost * (far[device] / all));
        }
        return costs;
    }

    private static int[] Where(bool[] near, bool wanted)
    {
        var places = new List<int>(near.Length);
        for (int i = 0; i < near.Length; i++)
        {
            if (near[i] == wanted)
            {
                places.Add(i);
            }
        }
        return [.. places];
    }
}
