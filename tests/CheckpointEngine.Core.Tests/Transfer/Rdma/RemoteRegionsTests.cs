using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;
using CsCheck;

namespace CheckpointEngine.Tests;

public class RemoteRegionsTests
{
    private static readonly EndpointName s_owner = new("h", 1);

    [Theory]
    [InlineData("50-rdma-metadata.rx")]
    [InlineData("51-rdma-real-metadata.rx")]
    [InlineData("51-rdma-real-metadata.tx")]
    [InlineData("59-rdma-metadata-callback.rx")]
    [InlineData("60-rdma-py-target-metadata.rx")]
    [InlineData("60-rdma-py-target-metadata.tx")]
    public void CapturedDescriptor_EveryBuffer_HasItsKeysFromFirstByteToLast(string capture)
    {
        SegmentDescriptor descriptor = SegmentDescriptorReader.Read(Captures.ReadBody(capture));
        descriptor.Validate();
        Assert.All(descriptor.Devices, device => Assert.True(RdmaHandshake.TryParseGid(device.Gid, new byte[16]), device.Gid));
        Assert.NotEmpty(descriptor.Buffers);
        var regions = new RemoteRegions(s_owner, descriptor.Buffers);
        foreach (SegmentBuffer buffer in descriptor.Buffers)
        {
            ulong last = buffer.Address + buffer.LengthBytes - 1;
            for (int device = 0; device < descriptor.Devices.Length; device++)
            {
                Assert.Equal((true, buffer.RemoteKeys[device], last + 1), Find(regions, buffer.Address, device));
                Assert.Equal((true, buffer.RemoteKeys[device], last + 1), Find(regions, last, device));
            }
            Assert.Equal((false, 0u, 0ul), Find(regions, buffer.Address - 1, 0));
            Assert.Equal((false, 0u, 0ul), Find(regions, last + 1, 0));
            Assert.True(regions.Covers(buffer.Address, buffer.LengthBytes));
            Assert.False(regions.Covers(buffer.Address, buffer.LengthBytes + 1));
            Assert.False(regions.Covers(buffer.Address - 1, 2));
        }
    }

    [Fact]
    public void CapturedKeys_ByDevice_AreTheBuffersInOrder()
    {
        var regions = new RemoteRegions(s_owner, SegmentDescriptorReader.Read(Captures.ReadBody("59-rdma-metadata-callback.rx")).Buffers);
        Assert.Equal((true, 150994945u, 140304166416400ul + 2147483648), Find(regions, 140304166416400, 0));
        Assert.Equal((true, 167772162u, 140304166416400ul + 2147483648), Find(regions, 140304166416400, 1));
        Assert.Equal((true, 150994947u, 140306737315840ul + 1048576), Find(regions, 140306737315840, 0));
        Assert.Equal((true, 167772164u, 140306737315840ul + 1048576), Find(regions, 140306737315840, 1));
    }

    [Fact]
    public void Covers_RegionsThatAdjoin_AreOne()
    {
        var regions = new RemoteRegions(s_owner, [Region(300, 100, 3), Region(100, 100, 1), Region(200, 100, 2), Region(401, 99, 4)]);
        Assert.True(regions.Covers(100, 300));
        Assert.True(regions.Covers(199, 2));
        Assert.True(regions.Covers(150, 250));
        Assert.False(regions.Covers(150, 251));
        Assert.False(regions.Covers(399, 3));
        Assert.False(regions.Covers(99, 1));
        Assert.True(regions.Covers(401, 99));
        Assert.True(regions.Covers(0, 0));
        Assert.Equal((true, 1u, 200ul), Find(regions, 199, 0));
        Assert.Equal((true, 2u, 300ul), Find(regions, 200, 0));
        Assert.Equal((false, 0u, 0ul), Find(regions, 400, 0));
    }

    [Fact]
    public void Covers_NoRegion_CoversNothing()
    {
        var regions = new RemoteRegions(s_owner, []);
        Assert.False(regions.Covers(1, 1));
        Assert.True(regions.Covers(1, 0));
        Assert.Equal((false, 0u, 0ul), Find(regions, 1, 0));
    }

    [Fact]
    public void Constructor_RegionToTheEndOfTheAddressSpace_IsTakenAndOneBeyondRefused()
    {
        var regions = new RemoteRegions(s_owner, [Region(ulong.MaxValue - 10, 10, 7)]);
        Assert.True(regions.Covers(ulong.MaxValue - 10, 10));
        Assert.False(regions.Covers(ulong.MaxValue - 10, 11));
        Assert.False(regions.Covers(ulong.MaxValue - 10, ulong.MaxValue));
        Assert.False(regions.Covers(ulong.MaxValue, 1));
        var e = Assert.Throws<CheckpointEngineException>(() => new RemoteRegions(s_owner, [Region(1, 1, 1), Region(ulong.MaxValue - 10, 11, 7)]));
        Assert.Equal(CheckpointError.InvalidData, e.Error);
        Assert.Contains("h:1", e.Message, StringComparison.Ordinal);
        Assert.Contains("0xfffffffffffffff5", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void LookUps_OfRegionsInAnyOrder_AgreeWithANaiveModel()
        => Gen.Select(Gen.Select(Gen.Int[0, 3], Gen.Int[1, 8]).Array[0, 10], Gen.Int, Gen.Select(Gen.Int[0, 120], Gen.Int[0, 60]).Array[1, 20]).Sample((steps, seed, questions) =>
        {
            // Of each step a gap, often none, and a region behind it; told in any order.
            var buffers = new List<SegmentBuffer>();
            uint?[] keyOf = new uint?[256];
            int at = 1;
            foreach ((int gap, int length) in steps)
            {
                at += Math.Max(0, gap - 1);
                buffers.Add(Region((ulong)at, (ulong)length, (uint)buffers.Count + 1));
                Array.Fill(keyOf, (uint)buffers.Count, at, length);
                at += length;
            }
            SegmentBuffer[] told = [.. buffers];
            new Random(seed).Shuffle(told);
            var regions = new RemoteRegions(s_owner, told);
            foreach ((int address, int length) in questions)
            {
                Assert.Equal(Enumerable.Range(address, length).All(one => keyOf[one] is not null), regions.Covers((ulong)address, (ulong)length));
                (bool found, uint key, ulong end) = Find(regions, (ulong)address, 0);
                Assert.Equal(keyOf[address] is not null, found);
                if (found)
                {
                    Assert.Equal(keyOf[address], key);
                    Assert.Equal(key + 1000, Find(regions, (ulong)address, 1).Key);
                    Assert.Equal(key, keyOf[end - 1]);
                    Assert.NotEqual(key, keyOf[end]);
                }
            }
        }, iter: 5000);

    /// <summary>A hostile descriptor's regions may overlap: a key that is found is still one for the bytes up to where it is said to end.</summary>
    [Fact]
    public void TryFindKey_RegionsThatOverlap_NeverGivesAKeyBeyondItsRegion()
        => Gen.Select(Gen.Select(Gen.Int[1, 40], Gen.Int[1, 40]).Array[0, 10], Gen.Int[0, 90]).Sample((ranges, address) =>
        {
            SegmentBuffer[] buffers = [.. ranges.Select((range, i) => Region((ulong)range.Item1, (ulong)range.Item2, (uint)i + 1))];
            (bool found, uint key, ulong end) = Find(new RemoteRegions(s_owner, buffers), (ulong)address, 0);
            if (found)
            {
                SegmentBuffer buffer = buffers[key - 1];
                Assert.True(buffer.Address <= (ulong)address && (ulong)address < end && end == buffer.Address + buffer.LengthBytes);
            }
        });

    private static SegmentBuffer Region(ulong address, ulong lengthBytes, uint key) => new(address, lengthBytes, "cpu:0", [0, 0], [key, key + 1000]);

    private static (bool Found, uint Key, ulong End) Find(RemoteRegions regions, ulong address, int device)
        => (regions.TryFindKey(address, device, out uint key, out ulong end), key, end);
}
