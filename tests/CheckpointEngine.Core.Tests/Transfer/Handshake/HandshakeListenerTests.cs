using System.Buffers;
using System.Net;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

public class HandshakeListenerTests
{
    private static readonly IPEndPoint s_any = new(IPAddress.Loopback, 0);
    private static readonly SegmentDescriptor s_descriptor = SegmentDescriptorReader.Read(Captures.ReadBody("01-metadata-fetch.rx"));

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("{}")]
    [InlineData("null")]
    [InlineData("[]")]
    [InlineData("1")]
    [InlineData("""{"protocol":7,"buffers":"x"}""")]
    [InlineData("""{"protocol":"efa"}""")]
    [InlineData("""{"x":{"protocol":"tcp"}}""")]
    public async Task Metadata_AnyJson_GetsTheDescriptorAndNamesNoProtocol(string body)
    {
        var responder = new RecordingResponder(s_descriptor);
        await using HandshakeListener listener = HandshakeListener.Start([s_any], responder);
        Assert.Equal(Captures.Read("01-metadata-fetch.rx"), await RawClient.ExchangeAsync(listener.EndPoints[0], Frame(1, body)));
        Assert.Null(Assert.Single(responder.Requests).Protocol);
    }

    [Fact]
    public async Task Request_OneByteAtATime_IsAnswered()
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor));
        using RawClient client = await RawClient.ConnectAsync(listener.EndPoints[0]);
        foreach (byte b in Captures.Read("30-target-metadata.rx"))
        {
            await client.SendAsync(new[] { b });
        }
        Assert.Equal(Captures.Read("01-metadata-fetch.rx"), await client.ReadToEndAsync());
    }

    [Fact]
    public async Task Request_OfTheLargestSize_IsAnswered()
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor));
        byte[] request = Frame(1, "{}".PadRight(HandshakeFrame.DefaultMaxLength - 1));
        Assert.Equal(HandshakeFrame.DefaultMaxLength + 8, request.Length);
        Assert.Equal(Captures.Read("01-metadata-fetch.rx"), await RawClient.ExchangeAsync(listener.EndPoints[0], request));
    }

    [Fact]
    public async Task Client_HalfClosesAfterItsRequest_IsAnswered()
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor));
        using RawClient client = await RawClient.ConnectAsync(listener.EndPoints[0]);
        await client.SendAsync(Captures.Read("01-metadata-fetch.tx"));
        client.HalfClose();
        Assert.Equal(Captures.Read("01-metadata-fetch.rx"), await client.ReadToEndAsync());
    }

    [Fact]
    public async Task Clients_SixtyFourAtOnce_AllGetTheDescriptor()
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor));
        EndpointName name = EndpointName.FromEndPoint(listener.EndPoints[0]);
        SegmentDescriptor[] fetched = await Task.WhenAll(Enumerable.Range(0, 64)
            .Select(_ => HandshakeClient.FetchDescriptorAsync(name, default, cancellationToken: Token).AsTask()));
        Assert.All(fetched, descriptor => Assert.Equal(s_descriptor.Buffers[0].Address, descriptor.Buffers[0].Address));
    }

    [Fact]
    public async Task Connections_BeyondTheBound_CloseTheOneThatHasBeenSilentLongest()
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor), new HandshakeListenerOptions { Limits = new ConnectionLimits(2, 2) });
        using RawClient first = await RawClient.ConnectAsync(listener.EndPoints[0]);
        using (RawClient second = await RawClient.ConnectAsync(listener.EndPoints[0]))
        {
            await UntilAsync(() => listener.ConnectionCount == 2);
            using RawClient third = await RawClient.ConnectAsync(listener.EndPoints[0]);
            Assert.Empty(await first.ReadToEndAsync());
            await third.SendAsync(Captures.Read("02-probe.tx"));
            third.HalfClose();
            Assert.NotEmpty(await third.ReadToEndAsync());
            await UntilAsync(() => listener.ConnectionCount == 1);
        }
        await UntilAsync(() => listener.ConnectionCount == 0);
        Assert.NotEmpty(await RawClient.ExchangeAsync(listener.EndPoints[0], Captures.Read("02-probe.tx")));
    }

    [Fact]
    public async Task Responder_Throws_ClosesThatConnectionOnly()
    {
        var responder = new RecordingResponder(s_descriptor) { Failure = new InvalidOperationException("ours") };
        await using HandshakeListener listener = HandshakeListener.Start([s_any], responder);
        Assert.Empty(await RawClient.ExchangeAsync(listener.EndPoints[0], Captures.Read("01-metadata-fetch.tx")));
        responder.Failure = null;
        Assert.NotEmpty(await RawClient.ExchangeAsync(listener.EndPoints[0], Captures.Read("01-metadata-fetch.tx")));
    }

    [Fact]
    public async Task Dispose_WithOpenConnections_ClosesThemAndFreesThePort()
    {
        HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor));
        using RawClient idle = await RawClient.ConnectAsync(listener.EndPoints[0]);
        await UntilAsync(() => listener.ConnectionCount == 1);
        await listener.DisposeAsync().AsTask().WaitAsync(TimeSpan.FromSeconds(4), Token);
        await listener.DisposeAsync();
        Assert.Empty(await idle.ReadToEndAsync());
        Assert.Equal(0, listener.ConnectionCount);
        await Assert.ThrowsAnyAsync<SocketException>(() => RawClient.ConnectAsync(listener.EndPoints[0]));
    }

    [Fact]
    public async Task Start_PortTaken_SaysWhere()
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder());
        var e = Assert.Throws<CheckpointEngineException>(() => HandshakeListener.Start([listener.EndPoints[0]], new RecordingResponder()));
        Assert.Equal(CheckpointError.Native, e.Error);
        Assert.NotEqual(0, e.NativeCode);
        Assert.Contains(listener.EndPoints[0].ToString(), e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Start_IPv4AndIPv6WithPortZero_ShareOnePort()
    {
        SkipWithoutIPv6();
        var responder = new RecordingResponder(s_descriptor);
        await using HandshakeListener listener = HandshakeListener.Start([s_any, new IPEndPoint(IPAddress.IPv6Loopback, 0)], responder);
        Assert.Equal(listener.EndPoints[0].Port, listener.EndPoints[1].Port);
        foreach (IPEndPoint endPoint in listener.EndPoints)
        {
            await HandshakeClient.FetchDescriptorAsync(EndpointName.FromEndPoint(endPoint), default, cancellationToken: Token);
        }
        Assert.Equal([IPAddress.Loopback, IPAddress.IPv6Loopback], responder.Requests.Select(request => request.Remote.Address));
    }

    [Fact]
    public async Task Start_IPv6Wildcard_TakesIPv4ClientsByTheirAddress()
    {
        SkipWithoutIPv6();
        var responder = new RecordingResponder(s_descriptor);
        await using HandshakeListener listener = HandshakeListener.Start([new IPEndPoint(IPAddress.IPv6Any, 0)], responder);
        await HandshakeClient.FetchDescriptorAsync(new EndpointName("127.0.0.1", listener.EndPoints[0].Port), default, cancellationToken: Token);
        Assert.Equal(IPAddress.Loopback, Assert.Single(responder.Requests).Remote.Address);
    }

    internal static byte[] Frame(byte type, string body)
    {
        var output = new ArrayBufferWriter<byte>();
        HandshakeFrame.Write(output, (MessageType)type, Encoding.UTF8.GetBytes(body));
        return output.WrittenSpan.ToArray();
    }

    internal static async Task UntilAsync(Func<bool> condition)
    {
        for (int i = 0; !condition(); i++)
        {
            Assert.True(i < 2000, "the state that was waited for did not come in 10 s");
            await Task.Delay(5, Token);
        }
    }

    private static void SkipWithoutIPv6()
    {
        try
        {
            using var socket = new Socket(AddressFamily.InterNetworkV6, SocketType.Stream, ProtocolType.Tcp);
            socket.Bind(new IPEndPoint(IPAddress.IPv6Loopback, 0));
        }
        catch (SocketException e)
        {
            Assert.Skip($"this host has no IPv6 loopback: {e.Message}");
        }
    }
}
