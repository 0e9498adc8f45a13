using CheckpointEngine.Interop;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Tests;

/// <summary>Discovery on the devices of the machine that tests run on; where it has none, what it says then.</summary>
public class RdmaDevicesTests
{
    [Fact]
    public void Discover_WithoutADevice_SaysWhy()
    {
        using RdmaDevices devices = RdmaDevices.Discover(HcaSelection.All, NullLogger.Instance);
        if (devices.Used.Length != 0)
        {
            Assert.Skip("this machine has RDMA devices that can be used");
        }
        Assert.False(string.IsNullOrEmpty(devices.WhyNone));
        Assert.Equal(LibIbverbs.TryLoad(out _), devices.LibraryFound);
    }

    [Fact]
    public unsafe void Discover_UsedDevices_AreOpenAndDescribed()
    {
        using RdmaDevices devices = RdmaDevices.Discover(HcaSelection.All, NullLogger.Instance);
        SkipWithoutDevice(devices);
        Assert.Null(devices.WhyNone);
        Assert.All(devices.Used, device =>
        {
            Assert.False(device.Handle!.IsInvalid);
            Assert.NotEmpty(device.UsedPorts);
            Assert.True(device.Limits!.MaxRegionBytes > 0);
            Assert.True(device.Limits.MaxReadsInFlight > 0);
            Assert.All(device.UsedPorts, port =>
            {
                Assert.True(port.IsActive);
                Assert.InRange(VerbsStatus.MtuBytes(port.ActiveMtu), 256, 4096);
                Assert.NotEmpty(port.GidChoice.Candidates);
                Assert.True(port.MaxMessageBytes > 0);
                LibIbverbs.IbvGid gid = default;
                Assert.Equal(0, LibIbverbs.ibv_query_gid(device.Handle.Pointer, (byte)port.Number, port.GidChoice.Candidates[0].Index, &gid));
                Assert.Equal(port.GidChoice.Candidates[0].Gid, new ReadOnlySpan<byte>(gid.raw, 16));
            });
        });
    }

    [Fact]
    public void Discover_OneIsNamed_OnlyThatIsOpen()
    {
        using RdmaDevices all = RdmaDevices.Discover(HcaSelection.All, NullLogger.Instance);
        SkipWithoutDevice(all);
        string last = all.Used[^1].Name;
        using RdmaDevices one = RdmaDevices.Discover(HcaSelection.From(last, null), NullLogger.Instance);
        Assert.Equal(last, Assert.Single(one.Used).Name);
        Assert.Equal(all.All.Length, one.All.Length);
        Assert.All(one.All.Where(device => device.Name != last), device => Assert.Null(device.Handle));
    }

    [Fact]
    public void Discover_PortThatIsDown_IsPassedOverInOneLine()
    {
        using RdmaDevices all = RdmaDevices.Discover(HcaSelection.All, NullLogger.Instance);
        RdmaDevice? down = Array.Find(all.All, device => device.Unusable is null && device.Ports is [{ IsActive: false }]);
        if (down is null)
        {
            Assert.Skip("this machine has no RDMA device whose only port is down");
        }
        var log = new Lines();
        using RdmaDevices again = RdmaDevices.Discover(HcaSelection.All, log);
        string line = Assert.Single(log.Text, text => text.Contains(down.Name, StringComparison.Ordinal));
        Assert.Contains("port 1", line, StringComparison.Ordinal);
        Assert.Contains(VerbsStatus.PortState(down.Ports[0].State), line, StringComparison.Ordinal);
        Assert.DoesNotContain(again.Used, device => device.Name == down.Name);

        // Named alone it is not one that matches nothing: no other is taken in its place.
        using RdmaDevices none = RdmaDevices.Discover(HcaSelection.From(null, "=" + down.Name), NullLogger.Instance);
        Assert.Empty(none.Used);
        Assert.Empty(none.Warnings);
        Assert.Contains(down.Name + " port 1 is", none.WhyNone, StringComparison.Ordinal);
    }

    [Fact]
    public void Discover_NameThatIsNotHere_TakesAllWithAWarning()
    {
        using RdmaDevices all = RdmaDevices.Discover(HcaSelection.All, NullLogger.Instance);
        SkipWithoutDevice(all);
        var log = new Lines();
        using RdmaDevices devices = RdmaDevices.Discover(HcaSelection.From(null, "=nosuch"), log);
        Assert.Equal(all.Used.Select(device => device.Name), devices.Used.Select(device => device.Name));
        Assert.Contains(log.Text, text => text.Contains("NCCL_IB_HCA==nosuch", StringComparison.Ordinal));
    }

    private static void SkipWithoutDevice(RdmaDevices devices)
    {
        if (devices.Used.Length == 0)
        {
            Assert.Skip("no RDMA device here: " + devices.WhyNone);
        }
    }

    private sealed class Lines : ILogger
    {
        public List<string> Text { get; } = [];

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
            => Text.Add(formatter(state, exception));
    }
}
