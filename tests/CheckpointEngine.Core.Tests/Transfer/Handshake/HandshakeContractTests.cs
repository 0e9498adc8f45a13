using System.Net;
using System.Text;
using System.Text.Json;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

/// <summary>Both ends against what real Mooncake peers sent and answered.</summary>
public class HandshakeContractTests
{
    private static readonly IPEndPoint s_any = new(IPAddress.Loopback, 0);

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("01-metadata-fetch.tx", "01-metadata-fetch.rx")]
    [InlineData("06-metadata-one-buffer-left.tx", "06-metadata-one-buffer-left.rx")]
    [InlineData("40-v0312p1-metadata.tx", "40-v0312p1-metadata.rx")]
    [InlineData("50-rdma-metadata.tx", "50-rdma-metadata.rx")]
    [InlineData("51-rdma-real-metadata.tx", "51-rdma-real-metadata.rx")]
    public async Task Listener_CapturedMetadataRequest_RepliesTheCapturedBytes(string request, string reply)
    {
        var responder = new RecordingResponder(SegmentDescriptorReader.Read(Captures.ReadBody(reply)));
        await using HandshakeListener listener = HandshakeListener.Start([s_any], responder);
        Assert.Equal(Captures.Read(reply), await RawClient.ExchangeAsync(listener.EndPoints[0], Captures.Read(request)));
    }

    [Theory]
    [InlineData("02-probe.tx", "02-probe.rx")]
    [InlineData("03-notify.tx", "03-notify.rx")]
    [InlineData("33-target-probe.rx", "33-target-probe.tx")]
    [InlineData("34-target-notify.rx", "34-target-notify.tx")]
    public async Task Listener_CapturedProbeOrNotify_RepliesTheCapturedBytes(string request, string reply)
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder());
        Assert.Equal(Captures.Read(reply), await RawClient.ExchangeAsync(listener.EndPoints[0], Captures.Read(request)));
    }

    [Theory]
    [InlineData("03-notify.tx", "who", "hello")]
    [InlineData("34-target-notify.rx", "nm", "msg")]
    public async Task Listener_CapturedNotify_ReachesTheResponder(string request, string name, string message)
    {
        var responder = new RecordingResponder();
        await using HandshakeListener listener = HandshakeListener.Start([s_any], responder);
        await RawClient.ExchangeAsync(listener.EndPoints[0], Captures.Read(request));
        Assert.Equal([(name, message)], responder.Notifications);
    }

    [Theory]
    [InlineData("01-metadata-fetch.tx", null)]
    [InlineData("30-target-metadata.rx", "tcp")]
    [InlineData("51-rdma-real-metadata.tx", "rdma")]
    [InlineData("59-rdma-metadata-callback.rx", "rdma")]
    [InlineData("60-rdma-py-target-metadata.rx", "rdma")]
    public async Task Listener_AskersDescriptor_TellsItsProtocol(string request, string? protocol)
    {
        var responder = new RecordingResponder(new SegmentDescriptor());
        await using HandshakeListener listener = HandshakeListener.Start([s_any], responder);
        // 59.rx is a reply; as a message it has the same form as a request.
        Assert.NotEmpty(await RawClient.ExchangeAsync(listener.EndPoints[0], Captures.Read(request)));
        PeerRequest asked = Assert.Single(responder.Requests);
        Assert.Equal(protocol, asked.Protocol);
        Assert.Equal(IPAddress.Loopback, asked.Remote.Address);
    }

    [Theory]
    [InlineData("04-oldproto-connection-to-tcp-only.tx", "04-oldproto-connection-to-tcp-only.rx", true)]
    [InlineData("05-connection-to-tcp-only.tx", "05-connection-to-tcp-only.rx", false)]
    [InlineData("52-rdma-real-connection.tx", "05-connection-to-tcp-only.rx", false)]
    [InlineData("53-rdma-real-ready-ack.tx", "05-connection-to-tcp-only.rx", false)]
    [InlineData("56-rdma-py-active-connection.tx", "05-connection-to-tcp-only.rx", false)]
    [InlineData("58-rdma-py-active-connection-no-gid.tx", "05-connection-to-tcp-only.rx", false)]
    [InlineData("61-rdma-py-target-connection.rx", "05-connection-to-tcp-only.rx", false)]
    [InlineData("62-rdma-py-target-ready-ack.rx", "05-connection-to-tcp-only.rx", false)]
    public async Task Listener_CapturedConnection_RepliesTheEmptyObjectWithAReason(string request, string likeReply, bool oldForm)
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder());
        byte[] reply = await RawClient.ExchangeAsync(listener.EndPoints[0], Captures.Read(request));
        int header = oldForm ? 8 : 9;
        Assert.Equal(reply.Length - 8, BitConverter.ToInt64(reply));
        Assert.Equal(Captures.Read(likeReply)[8..header], reply[8..header]);
        Assert.NotEmpty(JsonDocument.Parse(reply.AsMemory(header)).RootElement.GetProperty("reply_msg").GetString()!);
        Assert.Equal(Encoding.UTF8.GetString(Captures.Read(likeReply)[header..]), Encoding.UTF8.GetString(reply[header..]).Replace(ConnectionReply.NoRdma, "", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("01-metadata-fetch.rx")]
    [InlineData("06-metadata-one-buffer-left.rx")]
    [InlineData("30-target-metadata.tx")]
    [InlineData("40-v0306-metadata.rx")]
    [InlineData("40-v0311-metadata.rx")]
    [InlineData("40-v0312p1-metadata.rx")]
    [InlineData("50-rdma-metadata.rx")]
    [InlineData("51-rdma-real-metadata.rx")]
    [InlineData("60-rdma-py-target-metadata.tx")]
    public async Task Client_CapturedMetadataReply_IsReadAndTheConnectionClosedAtOnce(string reply)
    {
        await using ScriptedServer server = ScriptedServer.Replying(Captures.Read(reply));
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(server.Name, default, cancellationToken: Token);
        descriptor.Validate();
        using JsonDocument json = JsonDocument.Parse(Captures.ReadBody(reply));
        Assert.Equal(json.RootElement.GetProperty("name").GetString(), descriptor.Name);
        Assert.Equal(json.RootElement.GetProperty("protocol").GetString(), descriptor.Protocol);
        Assert.Equal(json.RootElement.GetProperty("tcp_data_port").GetInt32(), descriptor.TcpDataPort);
        Assert.Equal(json.RootElement.TryGetProperty("tcp_proto_version", out JsonElement version) ? version.GetInt32() : 0, descriptor.TcpProtoVersion);
        Assert.Equal(json.RootElement.GetProperty("buffers").EnumerateArray().Select(b => b.GetProperty("addr").GetUInt64()), descriptor.Buffers.Select(b => b.Address));
        Assert.True(await server.ClosedByClient.WaitAsync(TimeSpan.FromSeconds(4), Token));
        Assert.Equal(Captures.Read("01-metadata-fetch.tx"), Assert.Single(server.Requests));
    }

    [Fact]
    public async Task Client_OwnDescriptor_IsSentAsARealInitiatorSendsIt()
    {
        await using ScriptedServer server = ScriptedServer.Replying(Captures.Read("30-target-metadata.tx"));
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(server.Name, Captures.ReadBody("30-target-metadata.rx"), cancellationToken: Token);
        Assert.Equal(44037, descriptor.TcpDataPort);
        Assert.Equal(Captures.Read("30-target-metadata.rx"), Assert.Single(server.Requests));
    }

    [Fact]
    public async Task Client_CapturedProbe_SendsAndTakesTheCapturedBytes()
    {
        await using ScriptedServer server = ScriptedServer.Replying(Captures.Read("02-probe.rx"));
        await HandshakeClient.ProbeAsync(server.Name, cancellationToken: Token);
        Assert.Equal(Captures.Read("33-target-probe.rx"), Assert.Single(server.Requests));
    }

    [Fact]
    public async Task Client_CapturedNotify_SendsAndTakesTheCapturedBytes()
    {
        await using ScriptedServer server = ScriptedServer.Replying(Captures.Read("03-notify.rx"));
        await HandshakeClient.NotifyAsync(server.Name, "nm", "msg", cancellationToken: Token);
        Assert.Equal(Captures.Read("34-target-notify.rx"), Assert.Single(server.Requests));
    }

    [Fact]
    public async Task Client_CapturedConnection_GetsTheReplyOfTheSameType()
    {
        await using ScriptedServer server = ScriptedServer.Replying(Captures.Read("52-rdma-real-connection.rx"));
        byte[] reply = await HandshakeClient.ExchangeAsync(
            server.Name, "connecting to", MessageType.Connection, Captures.ReadBody("52-rdma-real-connection.tx"), cancellationToken: Token);
        Assert.Equal(Captures.ReadBody("52-rdma-real-connection.rx"), reply);
        Assert.Equal(Captures.Read("52-rdma-real-connection.tx"), Assert.Single(server.Requests));
    }
}
