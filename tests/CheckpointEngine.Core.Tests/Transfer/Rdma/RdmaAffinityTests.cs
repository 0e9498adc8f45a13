using CheckpointEngine.Internal;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>Which devices are near to memory, on hosts that are not here.</summary>
public sealed class RdmaAffinityTests
{
    private static readonly NumaDistances s_four = new(["10 12 32 32\n", "12 10 32 32\n", "32 32 10 12\n", "32 32 12 10\n"]);

    [Theory]
    [InlineData(0, "0 1 2 3", "+---")]
    [InlineData(0, "1 1 2 3", "++--")]         // its own node has none: the next one's
    [InlineData(1, "0 0 2 3", "++--")]
    [InlineData(3, "0 1 2 2", "--++")]
    [InlineData(-1, "0 1 2 3", "++++")]
    [InlineData(2, "0 -1 2 -1", "-+++")]
    [InlineData(2, "-1 -1", "++")]
    public void Near_OnFourNodes_IsTheNearestThereAre(int memory, string devices, string expected)
    {
        int[] nodes = [.. devices.Split(' ').Select(int.Parse)];
        Assert.Equal(expected, string.Concat(RdmaAffinity.Near(memory, nodes, s_four).Select(near => near ? '+' : '-')));
    }

    [Fact]
    public void Between_WithoutTheKernelsWord_IsNearerToItself()
    {
        var unknown = new NumaDistances([]);
        Assert.Equal(0, unknown.Nodes);
        Assert.True(unknown.Between(3, 3) < unknown.Between(3, 2));
        Assert.Equal(12, s_four.Between(2, 3));
        var gap = new NumaDistances(["10 31", null, "31 10"]);        // node 1 is not there, and has no column
        Assert.Equal((31, 10, 2), (gap.Between(0, 2), gap.Between(2, 2), gap.Nodes));
        Assert.True(s_four.Between(2, 9) > s_four.Between(2, 2));
    }

    [Fact]
    public void Matrix_AnyHost_EveryEntryNamesEveryDeviceOnceAndTheLastGivesTheOrder()
        => Topologies.Sample(host =>
        {
            string[] names = [.. host.Devices.Select((_, i) => $"mlx5_{i}")];
            DeviceAffinity[] matrix = RdmaAffinity.Matrix(host.Memory, names, host.Devices, s_four, out int[] order);
            Assert.NotEmpty(matrix);
            Assert.Equal(host.Memory.Length == 0 ? ["cpu:0"] : host.Memory.Select(RdmaAffinity.LocationOf).Distinct().Order(StringComparer.Ordinal), matrix.Select(entry => entry.Location));
            Assert.All(matrix, entry =>
            {
                Assert.Equal(names.Order(StringComparer.Ordinal), entry.Preferred.Concat(entry.Others).Order(StringComparer.Ordinal));
                Assert.NotEmpty(entry.Preferred);
            });
            Assert.Equal(matrix[^1].Preferred.Concat(matrix[^1].Others), order.Select(device => names[device]));
            foreach (DeviceAffinity entry in matrix.Where(entry => entry.Location.StartsWith("cpu:", StringComparison.Ordinal) && host.Memory.Length != 0))
            {
                int node = int.Parse(entry.Location["cpu:".Length..]);
                int[] preferred = [.. entry.Preferred.Select(name => host.Devices[Array.IndexOf(names, name)])];
                int[] others = [.. entry.Others.Select(name => host.Devices[Array.IndexOf(names, name)])];
                Assert.All(others, other => Assert.All(preferred, near => Assert.True(near < 0 || s_four.Between(node, near) < s_four.Between(node, other))));
            }
        });

    [Fact]
    public void CostsByMatrix_SharesOfBytes_ThatADeviceIsNotPreferredFor()
    {
        SegmentBuffer[] buffers = [Buffer("cpu:0", 300), Buffer("cpu:1", 100), Buffer("cuda:0", 400), Buffer("cpu:1", 200)];
        DeviceAffinity[] matrix = [new("cpu:0", ["a"], ["b", "c"]), new("cpu:1", ["b"], ["a"]), new("cpu:2", ["c"], []), new("cuda:0", [], ["a"])];
        Assert.Equal([300, 300, 600], RdmaAffinity.CostsByMatrix(buffers, matrix, ["a", "b", "c"]));
        Assert.Equal([0, 0], RdmaAffinity.CostsByMatrix([], matrix, ["a", "b"]));
        Assert.Equal([0], RdmaAffinity.CostsByMatrix(buffers, [], ["a"]));
    }

    [Fact]
    public void Pairs_AnyTopologies_RailsComeFirstAndTheNearOnesOfThemBeforeTheOthers()
        => Gen.Select(Gen.Int[0, 3].Array[1, 9], Gen.Int[0, 3].Array[1, 9]).Sample((here, there) =>
        {
            int[] localCosts = [.. here.Select(node => node == 0 ? 0 : node * 250)];
            int[] remoteCosts = [.. there.Select(node => node == 0 ? 0 : node * 250)];
            var pairs = new DevicePairs(localCosts, remoteCosts, 1);
            var taken = new List<(int Local, int Remote)>();
            while (pairs.TryTake(Well) is { } pair)
            {
                taken.Add(pair);
            }
            Assert.Equal(here.Length * there.Length, taken.Distinct().Count());
            (int Local, int Remote)[] rails = [.. taken.Take(pairs.Preferred(Well))];
            int few = Math.Min(here.Length, there.Length);
            Assert.Equal(Math.Max(here.Length, there.Length), rails.Length);
            Assert.All(Enumerable.Range(0, few), rail => Assert.Contains((rail, rail), rails));
            int[] costs = [.. taken.Select(pair => localCosts[pair.Local] + remoteCosts[pair.Remote])];
            Assert.Equal(costs.Take(rails.Length).Order(), costs.Take(rails.Length));
            Assert.Equal(costs.Skip(rails.Length).Order(), costs.Skip(rails.Length));
            // What does not come out even falls to the nearer ones of the side that has fewer, and to none of them twice as often.
            var uses = rails.CountBy(pair => here.Length < there.Length ? pair.Local : pair.Remote).ToDictionary();
            int[] cost = here.Length < there.Length ? localCosts : remoteCosts;
            Assert.InRange(uses.Values.Max() - uses.Values.Min(), 0, 1);
            Assert.All(uses, more => Assert.All(uses, less => Assert.True(more.Value <= less.Value || cost[more.Key] <= cost[less.Key])));
        });

    private static Gen<(int[] Devices, int[] Memory)> Topologies => Gen.Select(Gen.Int[-1, 3].Array[1, 9], Gen.Int[-1, 3].Array[0, 9]);

    private static SegmentBuffer Buffer(string location, ulong bytes) => new(1, bytes, location, [1, 2, 3], [1, 2, 3]);

    private static string? Well(int device, out int epoch)
    {
        epoch = 0;
        return null;
    }
}
