using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

public class SegmentDescriptorTests
{
    [Theory]
    [InlineData("01-metadata-fetch.rx")]
    [InlineData("06-metadata-one-buffer-left.rx")]
    [InlineData("30-target-metadata.rx")]
    [InlineData("40-v0306-metadata.rx")]
    [InlineData("40-v0311-metadata.rx")]
    [InlineData("40-v0312p1-metadata.rx")]
    [InlineData("50-rdma-metadata.rx")]
    [InlineData("51-rdma-real-metadata.tx")]
    [InlineData("51-rdma-real-metadata.rx")]
    [InlineData("59-rdma-metadata-callback.tx")]
    [InlineData("59-rdma-metadata-callback.rx")]
    [InlineData("60-rdma-py-target-metadata.tx")]
    public void Validate_Captured_Passes(string capture) => SegmentDescriptorReader.Read(Captures.ReadBody(capture)).Validate();

    [Theory]
    [InlineData("""{"protocol":"tcp","tcp_data_port":1}""")]
    [InlineData("""{"protocol":"tcp","tcp_data_port":65535,"buffers":[]}""")]
    [InlineData("""{"protocol":"rdma"}""")]
    [InlineData("""{"protocol":"rdma","devices":[{"name":"a","gid":"g"}],"buffers":[{"addr":1,"length":1,"name":"*","rkey":[1],"lkey":[2]}]}""")]
    public void Validate_WhatMooncakeAccepts_Passes(string json) => Read(json).Validate();

    [Theory]
    [InlineData("""{}""")]
    [InlineData("""{"protocol":"tcp"}""")]
    [InlineData("""{"protocol":"tcp","tcp_data_port":65536}""")]
    [InlineData("""{"protocol":"tcp","tcp_data_port":-1}""")]
    [InlineData("""{"protocol":"tcp","tcp_data_port":1,"buffers":[{"addr":1,"length":1}]}""")]
    [InlineData("""{"protocol":"tcp","tcp_data_port":1,"buffers":[{"addr":0,"length":1,"name":"n"}]}""")]
    [InlineData("""{"protocol":"tcp","tcp_data_port":1,"buffers":[{"addr":1,"length":0,"name":"n"}]}""")]
    [InlineData("""{"protocol":"rdma","devices":[{"name":"","gid":"g"}]}""")]
    [InlineData("""{"protocol":"rdma","devices":[{"name":"a"}]}""")]
    [InlineData("""{"protocol":"rdma","devices":[{"name":"a","gid":"g"}],"buffers":[{"addr":1,"length":1,"name":"*"}]}""")]
    [InlineData("""{"protocol":"rdma","devices":[{"name":"a","gid":"g"}],"buffers":[{"addr":1,"length":1,"name":"*","rkey":[1,2],"lkey":[1,2]}]}""")]
    [InlineData("""{"protocol":"rdma","devices":[{"name":"a","gid":"g"}],"buffers":[{"addr":1,"length":1,"name":"*","rkey":[1],"lkey":[1,2]}]}""")]
    public void Validate_BrokenRule_IsInvalidData(string json)
        => Assert.Equal(CheckpointError.InvalidData, Assert.Throws<CheckpointEngineException>(() => Read(json).Validate()).Error);

    [Fact]
    public void Validate_OtherTransport_IsNotSupported()
        => Assert.Equal(CheckpointError.NotSupported, Assert.Throws<CheckpointEngineException>(() => Read("""{"protocol":"efa"}""").Validate()).Error);

    [Fact]
    public void GetTcpDataEndpoint_RedirectingName_StaysWithTheOpenedHost()
        => Assert.Equal(new EndpointName("10.0.0.1", 99),
            Read("""{"name":"10.6.6.6:7","protocol":"tcp","tcp_data_port":99}""").GetTcpDataEndpoint(new EndpointName("10.0.0.1", 5)));

    private static SegmentDescriptor Read(string json) => SegmentDescriptorReader.Read(System.Text.Encoding.UTF8.GetBytes(json));
}
