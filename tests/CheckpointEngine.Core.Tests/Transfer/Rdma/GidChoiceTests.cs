using System.Net;
using CheckpointEngine.Transfer.Rdma;
using CsCheck;

namespace CheckpointEngine.Tests;

public class GidChoiceTests
{
    [Theory]
    [InlineData("8.1.2.3", GidTableType.RoceV2, "eth0", GidRank.RoutableWithDevice)]
    [InlineData("192.168.1.1", GidTableType.RoceV2, "eth0", GidRank.RoutableWithDevice)]
    [InlineData("2001:db8::1", GidTableType.RoceV2, "eth0", GidRank.RoutableWithDevice)]
    [InlineData("198.18.0.1", GidTableType.RoceV2, null, GidRank.Routable)]
    [InlineData("10.0.0.5", GidTableType.RoceV2, "eth0", GidRank.PrivateWithDevice)]
    [InlineData("172.16.0.1", GidTableType.RoceV2, "eth0", GidRank.PrivateWithDevice)]
    [InlineData("172.31.255.1", GidTableType.RoceV2, "eth0", GidRank.PrivateWithDevice)]
    [InlineData("172.32.0.1", GidTableType.RoceV2, "eth0", GidRank.RoutableWithDevice)]
    [InlineData("100.64.0.1", GidTableType.RoceV2, "eth0", GidRank.PrivateWithDevice)]
    [InlineData("100.127.0.1", GidTableType.RoceV2, "eth0", GidRank.PrivateWithDevice)]
    [InlineData("100.128.0.1", GidTableType.RoceV2, "eth0", GidRank.RoutableWithDevice)]
    [InlineData("10.0.0.5", GidTableType.RoceV2, null, GidRank.Private)]
    [InlineData("fe80::1", GidTableType.RoceV2, "eth0", GidRank.DegradedWithDevice)]
    [InlineData("febf::1", GidTableType.RoceV2, "eth0", GidRank.DegradedWithDevice)]
    [InlineData("fe80::1", GidTableType.InfiniBand, null, GidRank.Degraded)]
    [InlineData("fec0::1", GidTableType.InfiniBand, null, GidRank.Routable)]
    [InlineData("8.8.8.8", GidTableType.RoceV2, "docker0", GidRank.DegradedWithDevice)]
    [InlineData("172.17.0.1", GidTableType.RoceV2, "docker0", GidRank.DegradedWithDevice)]
    [InlineData("8.8.8.8", GidTableType.RoceV2, "flannel.1", GidRank.DegradedWithDevice)]
    [InlineData("8.8.8.8", GidTableType.RoceV2, "cni0", GidRank.DegradedWithDevice)]
    [InlineData("8.8.8.8", GidTableType.RoceV2, "calico1", GidRank.DegradedWithDevice)]
    [InlineData("8.8.8.8", GidTableType.RoceV2, "vxlan.calico", GidRank.DegradedWithDevice)]
    [InlineData("8.8.8.8", GidTableType.RoceV2, "tunl0", GidRank.DegradedWithDevice)]
    [InlineData("8.8.8.8", GidTableType.RoceV2, "tunl1", GidRank.RoutableWithDevice)]
    [InlineData("8.8.8.8", GidTableType.RoceV1, "eth0", GidRank.LastResort)]
    [InlineData("8.8.8.8", (GidTableType)9, "eth0", GidRank.LastResort)]
    [InlineData("::", GidTableType.RoceV2, "eth0", GidRank.Unusable)]
    internal void Rank_IsMooncakes(string address, GidTableType type, string? network, GidRank expected)
        => Assert.Equal(expected, GidChoice.Rank(Entry(0, address, type, network)));

    [Fact]
    public void Choose_UsualRoceTable_TakesTheIPv4OfRoceV2()
    {
        GidTableEntry[] table =
        [
            Entry(0, "fe80::1", GidTableType.RoceV1, "eth0"), Entry(1, "fe80::1", GidTableType.RoceV2, "eth0"),
            Entry(2, "198.18.0.1", GidTableType.RoceV1, "eth0"), Entry(3, "198.18.0.1", GidTableType.RoceV2, "eth0"),
        ];
        GidChoice choice = GidChoice.Choose(table, null, null);
        Assert.Equal([3, 1], choice.Candidates.Select(entry => entry.Index));
        Assert.True(choice.IsAutomatic);
        Assert.Contains("routable", choice.Reason, StringComparison.Ordinal);
        Assert.Null(choice.Warning);
    }

    [Fact]
    public void Choose_OnlyRoceV1_TakesTheFirstAsALastResort()
    {
        GidChoice choice = GidChoice.Choose([Entry(5, "10.0.0.1", GidTableType.RoceV1, "e"), Entry(2, "10.0.0.2", GidTableType.RoceV1, "e")], null, null);
        Assert.Equal(2, Assert.Single(choice.Candidates).Index);
    }

    [Fact]
    public void Choose_EmptyTable_SaysWhatToDo()
    {
        GidChoice choice = GidChoice.Choose([Entry(0, "::", GidTableType.RoceV2, "eth0")], null, null);
        Assert.Empty(choice.Candidates);
        Assert.Contains("address", choice.Reason, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("1", null, 1, "MC_GID_INDEX=1", false)]
    [InlineData(" 1 ", "0", 1, "MC_GID_INDEX=1", false)]
    [InlineData(null, "1", 1, "NCCL_IB_GID_INDEX=1", false)]
    [InlineData("", "1", 1, "NCCL_IB_GID_INDEX=1", false)]
    [InlineData("-1", "1", 1, "NCCL_IB_GID_INDEX=1", false)]
    [InlineData("x", "1", 1, "NCCL_IB_GID_INDEX=1", true)]
    [InlineData(null, "-1", 0, null, false)]
    [InlineData("256", null, 0, null, true)]
    [InlineData("99999999999", "one", 0, null, true)]
    [InlineData("2", null, 2, "MC_GID_INDEX=2", true)]   // RoCE v1
    public void Choose_VariablesGoFirst(string? mooncake, string? nccl, int index, string? reason, bool warns)
    {
        GidTableEntry[] table =
            [Entry(0, "8.8.8.8", GidTableType.RoceV2, "eth0"), Entry(1, "fe80::1", GidTableType.RoceV2, "eth0"), Entry(2, "8.8.8.8", GidTableType.RoceV1, "eth0")];
        GidChoice choice = GidChoice.Choose(table, mooncake, nccl);
        Assert.Equal(index, choice.Candidates[0].Index);
        Assert.Equal(reason is null, choice.IsAutomatic);
        if (reason is not null)
        {
            Assert.Equal(reason, choice.Reason);
            Assert.Single(choice.Candidates);   // what the user named has no stand-in
        }
        Assert.Equal(warns, choice.Warning is not null);
    }

    [Fact]
    public void Choose_VariableNamesAnEmptyPlace_TakesNoneAndNamesTheOthers()
    {
        GidChoice choice = GidChoice.Choose([Entry(3, "198.18.0.1", GidTableType.RoceV2, "eth0")], "7", null);
        Assert.Empty(choice.Candidates);
        Assert.Contains("MC_GID_INDEX=7", choice.Reason, StringComparison.Ordinal);
        Assert.Contains("3 (198.18.0.1, RoCE v2)", choice.Reason, StringComparison.Ordinal);
    }

    /// <summary>The candidates are the best of the table in order, whatever order the table is in.</summary>
    [Fact]
    public void Choose_AnyTable_TakesTheBest()
    {
        Gen<(int Type, int Address, int Network)> gen = Gen.Select(Gen.Int[0, 3], Gen.Int[0, 6], Gen.Int[0, 2]);
        gen.Array[0, 12].Sample(rows =>
        {
            string[] addresses = ["::", "8.8.8.8", "10.1.1.1", "fe80::2", "2001:db8::5", "192.168.3.4", "100.64.1.1"];
            string?[] networks = [null, "eth0", "docker0"];
            GidTableEntry[] table = [.. rows.Select((row, index) => Entry(index, addresses[row.Address], (GidTableType)row.Type, networks[row.Network]))];
            GidTableEntry[] expected = [.. table.Where(entry => !entry.IsNull).OrderBy(entry => GidChoice.Rank(entry)).ThenBy(entry => entry.Index)];
            expected = [.. expected.Take(GidChoice.MaxCandidates).TakeWhile((entry, place) => place == 0 || GidChoice.Rank(entry) < GidRank.LastResort)];

            Assert.Equal(expected, GidChoice.Choose(table, null, null).Candidates);
            Array.Reverse(table);
            Assert.Equal(expected, GidChoice.Choose(table, null, null).Candidates);
        });
    }

    [Fact]
    public void Texts_AreThoseOfTheWireAndOfPeople()
    {
        GidTableEntry ipv4 = Entry(1, "198.18.0.1", GidTableType.RoceV2, "net0");
        Assert.Equal("00:00:00:00:00:00:00:00:00:00:ff:ff:c6:12:00:01", ipv4.WireText);
        Assert.Equal("198.18.0.1", ipv4.AddressText);
        Assert.Equal("fe80::1", Entry(0, "fe80::1", GidTableType.InfiniBand, null).AddressText);
    }

    private static GidTableEntry Entry(int index, string address, GidTableType type, string? network)
        => new(index, IPAddress.Parse(address).MapToIPv6().GetAddressBytes(), type, network);
}
