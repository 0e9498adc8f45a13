using CheckpointEngine.Rdma.Tests.Support;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>What all others stand on: the devices of the guest.</summary>
public sealed class DeviceTests
{
    [LabFact]
    public void Guest_Devices_AreActiveAndRoutable()
    {
        Assert.SkipWhen(RdmaLab.Expected is null, "not in the guest of ./build.sh lab: these devices are somebody else's");

        Assert.Equal(Enumerable.Range(0, RdmaLab.Expected!.Value).Select(index => $"rxe{index}"), RdmaLab.Found);
        Assert.All(RdmaLab.Found.Index(), device =>
        {
            Assert.Equal("4: ACTIVE", RdmaLab.ReadPort(device.Item, "state"));
            Assert.Equal($"0000:0000:0000:0000:0000:ffff:c612:00{device.Index + 1:x2}", RdmaLab.ReadPort(device.Item, "gids/1"));    // 198.18.0.x
            Assert.Equal("RoCE v2", RdmaLab.ReadPort(device.Item, "gid_attrs/types/1"));
            Assert.Equal($"net{device.Index}", RdmaLab.ReadPort(device.Item, "gid_attrs/ndevs/1"));
        });
        Assert.Equal(RdmaLab.Found.Length, Directory.GetFiles("/dev/infiniband", "uverbs*").Length);
    }
}
