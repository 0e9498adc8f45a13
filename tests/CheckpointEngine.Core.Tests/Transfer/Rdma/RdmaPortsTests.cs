using CheckpointEngine.Interop;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Tests;

/// <summary>Which ports of devices with several are taken, and what they are called: devices that are made up, for there is none of two ports at hand.</summary>
public sealed class RdmaPortsTests
{
    [Theory]
    [InlineData(null, null, "a a:2 b b:2")]
    [InlineData("a", null, "a a:2")]
    [InlineData("a:2", null, "a=2")]
    [InlineData("b:2,a:2,b:1", null, "b=2 a=2 b:1")]
    [InlineData(null, "^a:1", "a=2 b b:2")]
    [InlineData(null, "=a:1,b:2", "a b=2")]
    public void Choose_DevicesOfTwoPorts_TakesThosePortsInThatOrder(string? devices, string? hca, string expected)
    {
        using RdmaDevices found = RdmaDevices.Choose([Device("a"), Device("b")], HcaSelection.From(devices, hca), NullLogger.Instance);
        Assert.Equal(expected, Names(found));
        Assert.Null(found.WhyNone);
        Assert.Equal(found.Meant.Length, found.Used.Sum(device => device.UsedPorts.Length));
    }

    [Fact]
    public void Choose_OnePortIsDown_ItStandsLastAndWaits()
    {
        using RdmaDevices found = RdmaDevices.Choose([Device("a", "down"), Device("b")], HcaSelection.All, NullLogger.Instance);
        Assert.Equal("a=2 b b:2 a:1", Names(found));
        Assert.Equal("down", found.Meant[^1].Port.Unusable);
        Assert.Equal([1], found.All[0].WaitingPorts.Select(port => port.Number));
    }

    [Fact]
    public void Choose_OnlyThePortThatIsDownIsNamed_NoOtherTakesItsPlace()
    {
        using RdmaDevices found = RdmaDevices.Choose([Device("a", "down")], HcaSelection.FromList("a:1", "--devices"), NullLogger.Instance);
        Assert.Equal("a", Names(found));
        Assert.Empty(found.Used);
        Assert.Contains("a port 1 is", found.WhyNone, StringComparison.Ordinal);
    }

    [Fact]
    public void Choose_PortsHaveOtherGids_EachGoesByItsOwn()
    {
        using RdmaDevices found = RdmaDevices.Choose([Device("a")], HcaSelection.All, NullLogger.Instance);
        Assert.Equal([1, 2], found.Meant.Select(meant => (int)meant.Port.GidChoice.Candidates[0].Gid[15]));
    }

    [Fact]
    public void Files_TreeOfTwoPorts_AreReadByPort()
    {
        using var tree = new TempDirectory();
        foreach ((int port, string rate, string type, string network) in new[] { (1, "100 Gb/sec (4X EDR)", "RoCE v2", "eth0"), (2, "400 Gb/sec (4X NDR)", "IB/RoCE v1", "eth1") })
        {
            string folder = Path.Combine(tree.Path, "a", "ports", $"{port}");
            Directory.CreateDirectory(Path.Combine(folder, "gid_attrs", "types"));
            Directory.CreateDirectory(Path.Combine(folder, "gid_attrs", "ndevs"));
            File.WriteAllText(Path.Combine(folder, "rate"), rate + "\n");
            File.WriteAllText(Path.Combine(folder, "gid_attrs", "types", "3"), type + "\n");
            File.WriteAllText(Path.Combine(folder, "gid_attrs", "ndevs", "3"), network + "\n");
        }
        string root = tree.Path + "/";
        Assert.Equal([100, 400], new[] { 1, 2 }.Select(port => RdmaDeviceFiles.GigabitsPerSecond("a", port, root)));
        Assert.Equal([GidTableType.RoceV2, GidTableType.RoceV1], new[] { 1, 2 }.Select(port => RdmaDeviceFiles.GidType("a", port, 3, isEthernet: true, root)));
        Assert.Equal(["eth0", "eth1"], new[] { 1, 2 }.Select(port => RdmaDeviceFiles.GidNetworkDevice("a", port, 3, root)));
        Assert.Null(RdmaDeviceFiles.GidNetworkDevice("a", 3, 3, root));
    }

    // As peers see them, with the port where the name does not tell it and it is not the first.
    private static string Names(RdmaDevices devices) => string.Join(' ', devices.Meant.Select(
        meant => meant.Name + (meant.Name == meant.Device.Name && meant.Port.Number != 1 ? $"={meant.Port.Number}" : "")));

    private static RdmaDevice Device(string name, string? firstUnusable = null) => new() { Name = name, Ports = [Port(1, firstUnusable), Port(2, null)] };

    private static RdmaPort Port(int number, string? unusable)
    {
        byte[] gid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 18, 0, (byte)number];
        GidTableEntry[] gids = [new GidTableEntry(1, gid, GidTableType.RoceV2, "net0")];
        return new RdmaPort
        {
            Number = number,
            State = unusable is null ? LibIbverbs.IBV_PORT_ACTIVE : LibIbverbs.IBV_PORT_INIT,
            ActiveMtu = LibIbverbs.IBV_MTU_4096,
            LinkLayer = LibIbverbs.IBV_LINK_LAYER_ETHERNET,
            Lid = 0,
            MaxMessageBytes = 1 << 30,
            GigabitsPerSecond = 100,
            Gids = gids,
            GidChoice = GidChoice.Choose(gids, null, null),
            Unusable = unusable,
        };
    }
}
