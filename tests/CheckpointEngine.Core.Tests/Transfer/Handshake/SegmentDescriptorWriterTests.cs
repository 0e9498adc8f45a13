using System.Buffers;
using System.Text;
using CheckpointEngine.Transfer.Handshake;
using CsCheck;

namespace CheckpointEngine.Tests;

public class SegmentDescriptorWriterTests
{
    private static readonly Gen<string> s_text = Gen.String[Gen.OneOf(Gen.Char[' ', '~'], Gen.OneOf('ä', '€', '\n', '\0', '"', '\\')), 0, 12];
    private static readonly Gen<uint[]> s_keys = Gen.UInt.Array[0, 3];
    private static readonly Gen<SegmentBuffer> s_buffer = Gen.Select(Gen.ULong, Gen.ULong, s_text, s_keys, s_keys,
        (address, length, name, local, remote) => new SegmentBuffer(address, length, name, local, remote));
    private static readonly Gen<SegmentDevice> s_device = Gen.Select(s_text, Gen.UInt, s_text, (name, lid, gid) => new SegmentDevice(name, lid, gid));
    private static readonly Gen<EngineAnnouncement?> s_engine = Gen.Select(Gen.Int, s_text, s_text, s_text.Array[0, 3], Gen.Bool,
        EngineAnnouncement? (protocol, peer, host, transports, token)
            => new EngineAnnouncement { Protocol = protocol, Peer = peer, HostId = host, Transports = transports, TokenRequired = token, Version = "0.1.0" });

    [Theory]
    [InlineData("01-metadata-fetch.rx")]
    [InlineData("06-metadata-one-buffer-left.rx")]
    [InlineData("30-target-metadata.rx")]
    [InlineData("40-v0312p1-metadata.rx")]
    [InlineData("50-rdma-metadata.rx")]
    [InlineData("51-rdma-real-metadata.rx")]
    [InlineData("51-rdma-real-metadata.tx")]
    [InlineData("60-rdma-py-target-metadata.rx")]
    public void Write_ValuesOfACapture_GivesItsBytes(string capture)
    {
        byte[] captured = Captures.ReadBody(capture);
        Assert.Equal(Encoding.UTF8.GetString(captured), Encoding.UTF8.GetString(Write(SegmentDescriptorReader.Read(captured))));
    }

    [Fact]
    public void Write_AllMembers_KeysAreInAlphabeticalOrder()
    {
        var descriptor = new SegmentDescriptor
        {
            Name = "[::1]:7",
            Protocol = "rdma",
            TcpProtoVersion = 1,
            RdmaServerName = "10.0.0.1:7",
            Timestamp = "t",
            Buffers = [new SegmentBuffer(ulong.MaxValue, 1, "*", [1], [2])],
            Devices = [new SegmentDevice("mlx5_0", 3, "00:01")],
            PriorityMatrix = [new DeviceAffinity("cuda:0", ["mlx5_0"], []), new DeviceAffinity("cpu:0", ["mlx5_0"], [])],
            Engine = new EngineAnnouncement { Peer = "h:1", HostId = "id", Transports = ["tcp"], Version = "0.1.0" },
        };
        Assert.Equal(
            """{"buffers":[{"addr":18446744073709551615,"length":1,"lkey":[1],"name":"*","rkey":[2]}],"checkpoint_engine":{"host_id":"id","peer":"h:1","protocol":1,"token_required":false,"transports":["tcp"],"version":"0.1.0"},"devices":[{"gid":"00:01","lid":3,"name":"mlx5_0"}],"name":"[::1]:7","priority_matrix":{"cpu:0":[["mlx5_0"],[]],"cuda:0":[["mlx5_0"],[]]},"protocol":"rdma","rdma_server_name":"10.0.0.1:7","tcp_data_port":0,"tcp_proto_version":1,"timestamp":"t"}""" + "\n",
            Encoding.UTF8.GetString(Write(descriptor)));
    }

    [Fact]
    public void FormatTimestamp_Time_HasTheFormOfTheCaptures()
        => Assert.Equal("2026-11-23 10:56:45.432492",
            SegmentDescriptor.FormatTimestamp(new DateTimeOffset(2026, 11, 23, 10, 56, 45, TimeSpan.FromHours(1)).AddTicks(4324920)));

    [Fact]
    public void Write_AnyDescriptor_ReadsBackTheSame()
        => Gen.Select(Gen.OneOf("tcp", "rdma"), Gen.Select(s_text, Gen.Int, Gen.Int), s_buffer.Array[0, 4], s_device.Array[0, 3],
            Gen.Select(s_text.Array[0, 3], s_text.Array[0, 3]), Gen.OneOf(Gen.Const(() => (EngineAnnouncement?)null), s_engine))
        .Sample((protocol, scalars, buffers, devices, lists, engine) =>
        {
            var descriptor = new SegmentDescriptor
            {
                Name = scalars.Item1,
                Protocol = protocol,
                TcpDataPort = scalars.Item2,
                TcpProtoVersion = scalars.Item3,
                Buffers = buffers,
                Devices = devices,
                PriorityMatrix = [new DeviceAffinity("cpu:0", lists.Item1, lists.Item2)],
                RdmaServerName = scalars.Item1,
                Engine = engine,
            };
            SegmentDescriptor back = SegmentDescriptorReader.Read(Write(descriptor));
            Assert.Equal((descriptor.Name, descriptor.Protocol, descriptor.TcpDataPort, descriptor.TcpProtoVersion), (back.Name, back.Protocol, back.TcpDataPort, back.TcpProtoVersion));
            Assert.Equal(buffers.Select(b => (b.Address, b.LengthBytes, b.Name)), back.Buffers.Select(b => (b.Address, b.LengthBytes, b.Name)));
            Assert.Equal(engine?.Peer, back.Engine?.Peer);
            Assert.Equal(engine?.Transports, back.Engine?.Transports);
            if (protocol == "rdma")
            {
                Assert.Equal(buffers.Select(b => (b.LocalKeys, b.RemoteKeys)), back.Buffers.Select(b => (b.LocalKeys, b.RemoteKeys)));
                Assert.Equal(devices, back.Devices);
                Assert.Equal(lists.Item1, back.PriorityMatrix[0].Preferred);
                Assert.Equal(lists.Item2, back.PriorityMatrix[0].Others);
            }
            Assert.Equal(Write(descriptor), Write(back));
        });

    private static byte[] Write(SegmentDescriptor descriptor)
    {
        var output = new ArrayBufferWriter<byte>();
        SegmentDescriptorWriter.Write(output, descriptor);
        return output.WrittenSpan.ToArray();
    }
}
