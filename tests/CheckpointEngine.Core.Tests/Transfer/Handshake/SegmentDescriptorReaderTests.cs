using System.Text;
using CheckpointEngine.Transfer.Handshake;
using CsCheck;

namespace CheckpointEngine.Tests;

public class SegmentDescriptorReaderTests
{
    [Fact]
    public void Read_CapturedTcp_GivesEveryField()
    {
        SegmentDescriptor descriptor = SegmentDescriptorReader.Read(Captures.ReadBody("01-metadata-fetch.rx"));
        Assert.Equal("127.0.0.1:15862", descriptor.Name);
        Assert.Equal("tcp", descriptor.Protocol);
        Assert.Equal((16128, 2), (descriptor.TcpDataPort, descriptor.TcpProtoVersion));
        Assert.Equal("2026-11-23 10:56:45.432492", descriptor.Timestamp);
        Assert.Equal([(139799825424384UL, 1048576UL, "127.0.0.1:15862"), (139799857352704UL, 4096UL, "127.0.0.1:15862")],
            descriptor.Buffers.Select(b => (b.Address, b.LengthBytes, b.Name)));
        Assert.Same(descriptor.Buffers[0].Name, descriptor.Buffers[1].Name);
        Assert.Empty(descriptor.Devices);
        Assert.Empty(descriptor.PriorityMatrix);
        Assert.Equal("", descriptor.RdmaServerName);
        Assert.Null(descriptor.Engine);
    }

    [Fact]
    public void Read_CapturedRdma_GivesKeysDevicesAndMatrix()
    {
        SegmentDescriptor descriptor = SegmentDescriptorReader.Read(Captures.ReadBody("50-rdma-metadata.rx"));
        SegmentBuffer buffer = Assert.Single(descriptor.Buffers);
        Assert.Equal("cpu:0", buffer.Name);
        Assert.Equal([16777217u, 33554434u], buffer.LocalKeys);
        Assert.Equal([150994945u, 167772162u], buffer.RemoteKeys);
        Assert.Equal([new SegmentDevice("fakehca0", 0, "00:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07"),
            new SegmentDevice("fakehca1", 0, "00:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:33:07")], descriptor.Devices);
        DeviceAffinity affinity = Assert.Single(descriptor.PriorityMatrix);
        Assert.Equal("cpu:0", affinity.Location);
        Assert.Equal(["fakehca0"], affinity.Preferred);
        Assert.Equal(["fakehca1"], affinity.Others);
        Assert.Equal((0, 1), (descriptor.TcpDataPort, descriptor.TcpProtoVersion));
    }

    [Fact]
    public void Read_Engine_GivesEveryMember()
    {
        EngineAnnouncement engine = Read("""
            {"checkpoint_engine":{"protocol":1,"peer":"h:1","host_id":"b","transports":["tcp","rdma"],"token_required":true,"version":"9","later":{"x":[]}}}
            """).Engine!;
        Assert.Equal(["tcp", "rdma"], engine.Transports);
        Assert.Equal((1, "h:1", "b", true, "9"), (engine.Protocol, engine.Peer, engine.HostId, engine.TokenRequired, engine.Version));
    }

    [Theory]
    [InlineData("{}")]
    [InlineData(" {\"name\":null,\"protocol\":null,\"tcp_data_port\":null,\"buffers\":null,\"devices\":null,\"priority_matrix\":null,\"checkpoint_engine\":null} \r\n\t")]
    [InlineData("{\"unknown\":{\"name\":\"x\",\"buffers\":[1]},\"buffers\":[]}")]
    public void Read_MissingNullOrUnknown_IsEmpty(string json)
    {
        SegmentDescriptor descriptor = Read(json);
        Assert.Equal(("", "", 0, 0, ""), (descriptor.Name, descriptor.Protocol, descriptor.TcpDataPort, descriptor.TcpProtoVersion, descriptor.Timestamp));
        Assert.Empty(descriptor.Buffers);
        Assert.Empty(descriptor.Devices);
        Assert.Empty(descriptor.PriorityMatrix);
        Assert.Null(descriptor.Engine);
    }

    [Fact]
    public void Read_AddressOf64Bits_IsKept()
        => Assert.Equal(ulong.MaxValue, Read("""{"buffers":[{"addr":18446744073709551615}]}""").Buffers[0].Address);

    [Fact]
    public void Read_KeyTwice_TakesTheLast()
    {
        SegmentDescriptor descriptor = Read("""{"name":"a","name":"b","priority_matrix":{"x":[["1"],[]],"x":[["2"]]}}""");
        Assert.Equal("b", descriptor.Name);
        Assert.Equal(["2"], Assert.Single(descriptor.PriorityMatrix).Preferred);
    }

    [Theory]
    [InlineData("", 0)]
    [InlineData("null", 0)]
    [InlineData("[]", 0)]
    [InlineData("{} x", 3)]
    [InlineData("{", 1)]
    [InlineData("""{"name":1}""", 8)]
    [InlineData("""{"name":{}}""", 8)]
    [InlineData("""{"protocol":[]}""", 12)]
    [InlineData("""{"tcp_data_port":"1"}""", 17)]
    [InlineData("""{"tcp_data_port":1.5}""", 17)]
    [InlineData("""{"tcp_data_port":4294967296}""", 17)]
    [InlineData("""{"buffers":{}}""", 11)]
    [InlineData("""{"buffers":[1]}""", 12)]
    [InlineData("""{"buffers":[{"addr":-1}]}""", 20)]
    [InlineData("""{"buffers":[{"addr":"1"}]}""", 20)]
    [InlineData("""{"buffers":[{"addr":1e3}]}""", 20)]
    [InlineData("""{"buffers":[{"addr":18446744073709551616}]}""", 20)]
    [InlineData("""{"buffers":[{"rkey":[4294967296]}]}""", 21)]
    [InlineData("""{"buffers":[{"lkey":["1"]}]}""", 21)]
    [InlineData("""{"devices":[{"lid":true}]}""", 19)]
    [InlineData("""{"priority_matrix":[]}""", 19)]
    [InlineData("""{"priority_matrix":{"a":{}}}""", 24)]
    [InlineData("""{"priority_matrix":{"a":[1]}}""", 25)]
    [InlineData("""{"checkpoint_engine":1}""", 21)]
    [InlineData("""{"checkpoint_engine":{"token_required":"no"}}""", 39)]
    public void Read_WrongTypeOrNoJson_IsInvalidDataWithOffset(string json, int offset)
    {
        var e = Assert.Throws<CheckpointEngineException>(() => Read(json));
        Assert.Equal(CheckpointError.InvalidData, e.Error);
        Assert.Contains($"(at byte {offset})", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("{\"name\":\"\\ud800\"}")]
    [InlineData("{\"priority_matrix\":{\"\\udc00\":[]}}")]
    public void Read_LoneSurrogate_IsInvalidData(string json)
        => Assert.Equal(CheckpointError.InvalidData, Assert.Throws<CheckpointEngineException>(() => Read(json)).Error);

    [Fact]
    public void Read_NotUtf8_IsInvalidData()
        => Assert.Equal(CheckpointError.InvalidData,
            Assert.Throws<CheckpointEngineException>(() => SegmentDescriptorReader.Read([.. "{\"name\":\""u8, 0xff, .. "\"}"u8])).Error);

    [Theory]
    [InlineData(62, true)]
    [InlineData(65, false)]
    [InlineData(100_000, false)]
    public void Read_NestedUnknown_IsSkippedToTheDepthLimit(int levels, bool ok)
    {
        string json = $"{{\"x\":{new string('[', levels)}{new string(']', levels)}}}";
        if (ok)
        {
            Read(json);
            return;
        }
        Assert.Equal(CheckpointError.InvalidData, Assert.Throws<CheckpointEngineException>(() => Read(json)).Error);
    }

    [Fact]
    public void Read_ManyDevices_IsBounded()
        => Assert.Equal(CheckpointError.InvalidData, Assert.Throws<CheckpointEngineException>(
            () => Read($"{{\"devices\":[{string.Join(',', Enumerable.Repeat("{}", 1025))}]}}")).Error);

    [Fact]
    public void Read_AnyBytes_GiveADescriptorOrInvalidData()
        => Gen.Byte.Array[0, 200].Sample(bytes => ReadOrRefuse(bytes));

    [Fact]
    public void Read_MutatedCapture_GivesADescriptorOrInvalidData()
    {
        byte[][] seeds = [Captures.ReadBody("01-metadata-fetch.rx"), Captures.ReadBody("50-rdma-metadata.rx"), Captures.ReadBody("59-rdma-metadata-callback.rx")];
        Gen<byte> interesting = Gen.OneOf(Gen.Byte, Gen.OneOf("{}[]\",:0-e\\u"u8.ToArray()));
        Gen.Select(Gen.OneOf(seeds), Gen.Select(Gen.Int[0, 10_000], interesting).Array[1, 8], Gen.Int[0, 10_000]).Sample((seed, edits, cut) =>
        {
            byte[] bytes = cut % 4 == 0 ? seed[..(cut % seed.Length)] : [.. seed];
            foreach ((int at, byte value) in edits)
            {
                if (bytes.Length != 0)
                {
                    bytes[at % bytes.Length] = value;
                }
            }
            ReadOrRefuse(bytes);
        });
    }

    [Fact]
    public void Read_EverySeed_GivesADescriptorOrInvalidData()
    {
        string[] seeds = Directory.GetFiles(Path.Combine(AppContext.BaseDirectory, "corpora", "handshake"), "descriptor-*");
        Assert.NotEmpty(seeds);
        Assert.All(seeds, seed => ReadOrRefuse(File.ReadAllBytes(seed)));
    }

    private static void ReadOrRefuse(byte[] bytes)
    {
        try
        {
            SegmentDescriptor descriptor = SegmentDescriptorReader.Read(bytes);
            descriptor.Validate();
        }
        catch (CheckpointEngineException e)
        {
            Assert.True(e.Error is CheckpointError.InvalidData or CheckpointError.NotSupported, e.ToString());
        }
    }

    private static SegmentDescriptor Read(string json) => SegmentDescriptorReader.Read(Encoding.UTF8.GetBytes(json));
}
