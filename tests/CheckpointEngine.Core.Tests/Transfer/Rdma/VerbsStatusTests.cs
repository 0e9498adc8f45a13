using System.Reflection;
using CheckpointEngine.Interop;
using CheckpointEngine.Transfer.Rdma;

namespace CheckpointEngine.Tests;

public class VerbsStatusTests
{
    [Fact]
    public void DescribeCompletion_EveryStatusHasItsOwnWords()
    {
        string[] texts = [.. Values("IBV_WC_").Where(value => value.Name.EndsWith("_ERR", StringComparison.Ordinal) || value.Name is "IBV_WC_SUCCESS" or "IBV_WC_TM_RNDV_INCOMPLETE")
            .Select(value => VerbsStatus.DescribeCompletion(value.Value))];
        Assert.Equal(24, texts.Length);
        Assert.Equal(texts.Length, texts.Distinct().Count());
        Assert.DoesNotContain(texts, text => text.StartsWith("unknown", StringComparison.Ordinal));
        Assert.StartsWith("unknown status 99", VerbsStatus.DescribeCompletion(99), StringComparison.Ordinal);
        Assert.Contains("ib_read_bw", VerbsStatus.DescribeCompletion(LibIbverbs.IBV_WC_RETRY_EXC_ERR), StringComparison.Ordinal);
        Assert.True(VerbsStatus.IsConsequence(LibIbverbs.IBV_WC_WR_FLUSH_ERR));
        Assert.False(VerbsStatus.IsConsequence(LibIbverbs.IBV_WC_RETRY_EXC_ERR));
    }

    [Fact]
    public void DescribeEvent_EveryEventHasItsOwnWords()
    {
        string[] texts = [.. Values("IBV_EVENT_").Select(value => VerbsStatus.DescribeEvent(value.Value))];
        Assert.Equal(20, texts.Distinct().Count());
        Assert.DoesNotContain(texts, text => text.StartsWith("unknown", StringComparison.Ordinal));
        Assert.Equal("unknown event 77", VerbsStatus.DescribeEvent(77));
    }

    [Fact]
    public void SubjectOf_SaysWhichMemberHolds()
    {
        Assert.Equal(VerbsEventSubject.Port, VerbsStatus.SubjectOf(LibIbverbs.IBV_EVENT_PORT_ERR));
        Assert.Equal(VerbsEventSubject.QueuePair, VerbsStatus.SubjectOf(LibIbverbs.IBV_EVENT_QP_FATAL));
        Assert.Equal(VerbsEventSubject.CompletionQueue, VerbsStatus.SubjectOf(LibIbverbs.IBV_EVENT_CQ_ERR));
        Assert.Equal(VerbsEventSubject.Device, VerbsStatus.SubjectOf(LibIbverbs.IBV_EVENT_DEVICE_FATAL));
        Assert.Equal(VerbsEventSubject.Other, VerbsStatus.SubjectOf(1000));
    }

    [Theory]
    [InlineData(LibIbverbs.IBV_MTU_256, 256)]
    [InlineData(LibIbverbs.IBV_MTU_1024, 1024)]
    [InlineData(LibIbverbs.IBV_MTU_4096, 4096)]
    [InlineData(0, 0)]
    [InlineData(6, 0)]
    public void MtuBytes_IsTheNumbersMeaning(int mtu, int bytes) => Assert.Equal(bytes, VerbsStatus.MtuBytes(mtu));

    [Theory]
    [InlineData(2, 128, 400)]   // 4X NDR
    [InlineData(2, 64, 200)]    // 4X HDR
    [InlineData(2, 32, 100)]    // 4X EDR
    [InlineData(1, 1, 2.5)]
    [InlineData(16, 64, 100)]   // 2X HDR
    [InlineData(2, 0, 0)]       // XDR, which does not fit into the byte
    [InlineData(3, 128, 0)]
    public void Speed_IsLanesTimesSpeed(int width, int speed, double gigabits) => Assert.Equal(gigabits, RdmaPort.Speed(width, speed));

    [Theory]
    [InlineData("800 Gb/sec (4X XDR)", 800)]
    [InlineData("2.5 Gb/sec (1X SDR)", 2.5)]
    [InlineData("fast", 0)]
    [InlineData("", 0)]
    [InlineData(null, 0)]
    public void ParseRate_ReadsTheKernelsText(string? text, double gigabits) => Assert.Equal(gigabits, RdmaDeviceFiles.ParseRate(text));

    [Fact]
    public void WhyUnfit_TellsWhatToTakeInstead()
    {
        Assert.Null(RdmaDevices.WhyUnfit(0x15b3, LibIbverbs.IBV_TRANSPORT_IB));
        Assert.Null(RdmaDevices.WhyUnfit(0, LibIbverbs.IBV_TRANSPORT_IB));
        Assert.Contains("--transport mooncake", RdmaDevices.WhyUnfit(0x1d0f, LibIbverbs.IBV_TRANSPORT_UNSPECIFIED), StringComparison.Ordinal);
        Assert.Contains("iWARP", RdmaDevices.WhyUnfit(0x1077, LibIbverbs.IBV_TRANSPORT_IWARP), StringComparison.Ordinal);
        Assert.NotNull(RdmaDevices.WhyUnfit(0x1137, LibIbverbs.IBV_TRANSPORT_USNIC_UDP));
    }

    private static IEnumerable<(string Name, int Value)> Values(string prefix)
        => typeof(LibIbverbs).GetFields(BindingFlags.Static | BindingFlags.NonPublic)
            .Where(field => field.IsLiteral && field.Name.StartsWith(prefix, StringComparison.Ordinal))
            .Select(field => (field.Name, (int)field.GetRawConstantValue()!));
}
