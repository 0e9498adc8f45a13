using System.Net;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Tests;

/// <summary>Descriptors of holders with many regions: a Mooncake process takes 1 MiB unless it is told otherwise.</summary>
public sealed class PublishedBuffersTests
{
    private const int TensorBytes = 40;
    private const int StrideBytes = 64;

    [Fact]
    public async Task Descriptor_OfAHundredThousandTensorsApart_FitsAndHoldsThemAll()
    {
        const int Count = 100_000;
        CancellationToken cancellationToken = TestContext.Current.CancellationToken;
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous((long)Count * StrideBytes);
        new Random(3).NextBytes(memory.GetSpan(0, Count * StrideBytes));
        using var tensors = new CallerTensors();
        for (int i = 0; i < Count; i++)
        {
            tensors.Add(Encoding.UTF8.GetBytes($"t{i}"), TensorDtype.U8, [TensorBytes], memory.Address + (i * StrideBytes));
        }
        await using var server = new ParameterServer(new ParameterServerOptions { Pin = PinMode.None });
        await server.StartAsync(cancellationToken);
        server.RegisterTensors("many", tensors);
        EndpointName name = EndpointName.Parse(server.P2pStoreAddress);

        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(name, default, cancellationToken: cancellationToken);   // takes 1 MiB, as Mooncake

        descriptor.Validate();
        for (int i = 0; i < Count; i += 997)
        {
            ulong address = (ulong)(memory.Address + (i * StrideBytes));
            SegmentBuffer buffer = Assert.Single(descriptor.Buffers, buffer => address >= buffer.Address && address + TensorBytes <= buffer.Address + buffer.LengthBytes);
            Assert.Equal(name.ToString(), buffer.Name);
        }
        using RawClient client = await RawClient.ConnectAsync(new IPEndPoint(IPAddress.Loopback, descriptor.TcpDataPort));
        ulong last = (ulong)(memory.Address + ((Count - 1) * StrideBytes));
        byte[] requests = [.. DataPort.Header(TensorBytes, last, DataHeader.Read), .. DataPort.Header(TensorBytes + 1, last, DataHeader.Read)];
        await client.SendAsync(requests);
        client.HalfClose();
        Assert.Equal(memory.GetSpan((Count - 1) * StrideBytes, TensorBytes).ToArray(), await client.ReadToEndAsync());    // and no byte of the gap
    }

    [Theory]
    [InlineData(1)]
    [InlineData(8_000)]
    [InlineData(12_001)]
    [InlineData(50_000)]
    public void OverTcp_AnyNumber_FitsWithTheLongestNumbersAndName(int count)
    {
        const string Name = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(1);
        RegisteredRange[] ranges = [.. Enumerable.Range(0, count).Select(i => new RegisteredRange(memory, 18446000000000000000UL + ((ulong)i << 33), 1UL << 32, null))];

        SegmentBuffer[] buffers = PublishedBuffers.OverTcp(ranges, Name);

        var output = new System.Buffers.ArrayBufferWriter<byte>();
        SegmentDescriptorWriter.Write(output, new SegmentDescriptor { Name = Name, Protocol = SegmentDescriptor.TcpProtocol, TcpDataPort = 65535, TcpProtoVersion = 2, Buffers = buffers });
        Assert.InRange(output.WrittenCount, 1, HandshakeFrame.DefaultMaxLength - (32 << 10));
        Assert.Equal(ranges[0].Address, buffers[0].Address);
        Assert.Equal(ranges[^1].Address + ranges[^1].LengthBytes, buffers[^1].Address + buffers[^1].LengthBytes);
        Assert.True(count > 8_000 || buffers.Length == count);
        for (int i = 1; i < buffers.Length; i++)
        {
            Assert.True(buffers[i - 1].Address + buffers[i - 1].LengthBytes <= buffers[i].Address);
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(8)]
    public void MostOverRdma_AsManyRegions_Fit(int devices)
    {
        uint[] keys = [.. Enumerable.Repeat(uint.MaxValue, devices)];
        SegmentBuffer[] buffers = [.. Enumerable.Repeat(new SegmentBuffer(ulong.MaxValue, ulong.MaxValue, "cpu:0", keys, keys), PublishedBuffers.MostOverRdma(devices))];
        var output = new System.Buffers.ArrayBufferWriter<byte>();
        SegmentDescriptorWriter.Write(output, new SegmentDescriptor
        {
            Name = "127.0.0.1:1", Protocol = SegmentDescriptor.RdmaProtocol, Buffers = buffers, Devices = [.. Enumerable.Range(0, devices).Select(i => new SegmentDevice($"mlx5_{i}", 0, "x"))],
        });
        Assert.InRange(output.WrittenCount, 800 << 10, HandshakeFrame.DefaultMaxLength);
    }
}
