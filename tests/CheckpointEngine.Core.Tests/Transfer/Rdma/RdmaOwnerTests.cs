using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Tests;

/// <summary>What of a descriptor is refused before any device of ours is asked: there is no plane here.</summary>
public class RdmaOwnerTests
{
    private const string Gid = "00:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07";

    [Theory]
    [InlineData("01-metadata-fetch.rx")]
    [InlineData("30-target-metadata.tx")]
    public void Make_CapturedTcpDescriptor_IsNotSupported(string capture)
        => Assert.Equal(CheckpointError.NotSupported, Refusal(SegmentDescriptorReader.Read(Captures.ReadBody(capture))).Error);

    [Fact]
    public void Make_NoDevice_IsNotSupported() => Assert.Equal(CheckpointError.NotSupported, Refusal(Descriptor([])).Error);

    [Fact]
    public void Make_ManyDevices_IsInvalidData()
    {
        CheckpointEngineException e = Refusal(Descriptor([.. Enumerable.Range(0, 65).Select(i => new SegmentDevice($"mlx5_{i}", 0, Gid))]));
        Assert.Equal(CheckpointError.InvalidData, e.Error);
        Assert.Contains("65 devices", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("", "no gid")]
    [InlineData("fe80::1", "'fe80::1' is no GID")]
    [InlineData(Gid + ":00", "is no GID")]
    public void Make_NoGid_IsInvalidData(string gid, string reason)
    {
        CheckpointEngineException e = Refusal(Descriptor([new SegmentDevice("mlx5_0", 0, Gid), new SegmentDevice("mlx5_1", 0, gid)]));
        Assert.Equal(CheckpointError.InvalidData, e.Error);
        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(3)]
    public void Make_KeysNotOfTheDevices_IsInvalidData(int keys)
        => Assert.Equal(CheckpointError.InvalidData, Refusal(Descriptor([new SegmentDevice("a", 0, Gid), new SegmentDevice("b", 0, Gid)],
            new SegmentBuffer(4096, 4096, "cpu:0", new uint[keys], new uint[keys]))).Error);

    [Fact]
    public void Make_BufferBeyondTheAddressSpace_IsInvalidData()
        => Assert.Equal(CheckpointError.InvalidData, Refusal(Descriptor([new SegmentDevice("a", 0, Gid)], new SegmentBuffer(ulong.MaxValue, 1, "cpu:0", [1], [1]))).Error);

    private static SegmentDescriptor Descriptor(SegmentDevice[] devices, params SegmentBuffer[] buffers)
        => new() { Name = "h:1", Protocol = SegmentDescriptor.RdmaProtocol, Devices = devices, Buffers = buffers };

    private static CheckpointEngineException Refusal(SegmentDescriptor descriptor)
        => Assert.Throws<CheckpointEngineException>(
            () => RdmaOwner.Make(null!, null!, new EndpointName("h", 1), isOurs: false, descriptor, TimeSpan.FromSeconds(1), NullLogger.Instance));
}
