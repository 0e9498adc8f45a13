using System.Net;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

public class HandshakeClientTests
{
    private static readonly HandshakeClientOptions s_short = new()
    {
        ReplyTimeout = TimeSpan.FromMilliseconds(300),
        NullRetryDelay = TimeSpan.FromMilliseconds(1),
    };

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Fetch_HostName_TriesEachAddress()
    {
        await using ScriptedServer server = ScriptedServer.Replying(Captures.Read("01-metadata-fetch.rx"));
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(new EndpointName("localhost", server.EndPoint.Port), default, cancellationToken: Token);
        Assert.Equal("127.0.0.1:15862", descriptor.Name);
    }

    [Fact]
    public async Task Fetch_NobodyListens_IsUnreachableAndSaysWhatWasTried()
    {
        using var bound = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        bound.Bind(new IPEndPoint(IPAddress.Loopback, 0));   // holds the port, does not listen
        EndpointName target = EndpointName.FromEndPoint((IPEndPoint)bound.LocalEndPoint!);
        CheckpointEngineException e = await FailsAsync(target, CheckpointError.Unreachable);
        Assert.Contains($"tried {target}", e.Message, StringComparison.Ordinal);
        Assert.NotEqual(0, e.NativeCode);
    }

    [Fact]
    public async Task Fetch_NoConnectionInTime_IsTimeout()
    {
        await using ScriptedServer server = ScriptedServer.Replying(Captures.Read("01-metadata-fetch.rx"));
        await FailsAsync(server.Name, CheckpointError.Timeout, s_short with { ConnectTimeout = TimeSpan.Zero });
        await FailsAsync(new EndpointName("no-such-host.invalid", 1), CheckpointError.Timeout, s_short with { ConnectTimeout = TimeSpan.Zero });
    }

    [Fact]
    public async Task Fetch_NoReply_IsTimeout()
    {
        await using var server = new ScriptedServer((_, _, token) => Task.Delay(Timeout.Infinite, token));
        CheckpointEngineException e = await FailsAsync(server.Name, CheckpointError.Timeout);
        Assert.Contains("0.3 s", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Fetch_DrippingReply_IsTimeout()
    {
        await using var server = new ScriptedServer(async (stream, _, token) =>
        {
            foreach (byte b in Captures.Read("01-metadata-fetch.rx"))
            {
                await stream.WriteAsync(new[] { b }, token);
                await Task.Delay(50, token);
            }
        });
        await FailsAsync(server.Name, CheckpointError.Timeout);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(5)]
    [InlineData(100)]
    public async Task Fetch_ClosedBeforeTheEndOfTheReply_IsUnreachable(int bytes)
    {
        await using var server = new ScriptedServer(async (stream, _, token) =>
        {
            await stream.WriteAsync(Captures.Read("01-metadata-fetch.rx").AsMemory(0, bytes), token);
            stream.Socket.Shutdown(SocketShutdown.Send);
        });
        await FailsAsync(server.Name, CheckpointError.Unreachable);
    }

    public static TheoryData<byte[]> BadReplies =>
    [
        BitConverter.GetBytes(0L),
        (byte[])[.. BitConverter.GetBytes((1L << 20) + 1), 1],
        BitConverter.GetBytes(-1L),
        (byte[])[.. BitConverter.GetBytes(3L), 0x80, 1, 2],
        Captures.Read("02-probe.rx"),
        Captures.Read("04-oldproto-connection-to-tcp-only.rx"),
        HandshakeListenerTests.Frame(1, ""),
        HandshakeListenerTests.Frame(1, "[]"),
        HandshakeListenerTests.Frame(1, "{\"name\":1}"),
        HandshakeListenerTests.Frame(1, "{}{}"),
        HandshakeListenerTests.Frame(1, new string('[', 1001) + new string(']', 1001)),
        HandshakeListenerTests.Frame(1, "{\"x\":" + new string('[', 100_000)),
        Encoding.ASCII.GetBytes("HTTP/1.1 400 Bad Request\r\n\r\n"),
    ];

    [Theory]
    [MemberData(nameof(BadReplies))]
    public async Task Fetch_BadReply_IsAProtocolViolation(byte[] reply)
    {
        await using ScriptedServer server = ScriptedServer.Replying(reply);
        await FailsAsync(server.Name, CheckpointError.ProtocolViolation, s_short with { ReplyTimeout = TimeSpan.FromSeconds(20) });
    }

    [Fact]
    public async Task Fetch_ReplyOverTheDefaultLimit_IsReadWhenAsked()
    {
        byte[] reply = HandshakeListenerTests.Frame(1, $"{{\"name\":\"{new string('n', 2 << 20)}\"}}");
        await using ScriptedServer server = ScriptedServer.Replying(reply);
        await FailsAsync(server.Name, CheckpointError.ProtocolViolation, HandshakeClientOptions.Default);
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(server.Name, default, new HandshakeClientOptions { MaxFrameBytes = 4 << 20 }, Token);
        Assert.Equal(2 << 20, descriptor.Name.Length);
    }

    [Fact]
    public async Task Fetch_NullThenDescriptor_AsksAgain()
    {
        byte[] none = HandshakeListenerTests.Frame(1, "null\n");
        await using ScriptedServer server = ScriptedServer.Replying(none, none, Captures.Read("01-metadata-fetch.rx"));
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(server.Name, default,
            new HandshakeClientOptions { NullRetryDelay = TimeSpan.FromMilliseconds(1) }, Token);
        Assert.Equal(16128, descriptor.TcpDataPort);
        Assert.Equal(3, server.Connections);
    }

    [Fact]
    public async Task Fetch_AlwaysNull_IsUnreachableAfterTheRetries()
    {
        await using ScriptedServer server = ScriptedServer.Replying(HandshakeListenerTests.Frame(1, "null\n"));
        CheckpointEngineException e = await FailsAsync(server.Name, CheckpointError.Unreachable,
            new HandshakeClientOptions { NullRetries = 2, NullRetryDelay = TimeSpan.FromMilliseconds(1) });
        Assert.Contains("asked 3 times", e.Message, StringComparison.Ordinal);
        Assert.Equal(3, server.Connections);
    }

    [Fact]
    public async Task Fetch_RedirectingName_ConnectsNowhereElse()
    {
        await using ScriptedServer elsewhere = ScriptedServer.Replying(Captures.Read("01-metadata-fetch.rx"));
        await using ScriptedServer server = ScriptedServer.Replying(HandshakeListenerTests.Frame(1, $$"""
            {"name":"{{elsewhere.Name}}","protocol":"tcp","tcp_data_port":1,"checkpoint_engine":{"peer":"{{elsewhere.Name}}"} }
            """));
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(server.Name, default, cancellationToken: Token);
        Assert.Equal(elsewhere.Name.ToString(), descriptor.Name);
        Assert.Equal(server.Name.Host, descriptor.GetTcpDataEndpoint(server.Name).Host);
        Assert.Equal((1, 0), (server.Connections, elsewhere.Connections));
    }

    [Fact]
    public async Task Fetch_RequestOverTheLimit_IsTheCallersMistake()
        => await Assert.ThrowsAsync<ArgumentException>(async () =>
            await HandshakeClient.FetchDescriptorAsync(new EndpointName("127.0.0.1", 1), new byte[HandshakeFrame.DefaultMaxLength], cancellationToken: Token));

    [Fact]
    public async Task Fetch_CallersTokenCancelled_IsOperationCanceled()
    {
        using var cancel = new CancellationTokenSource();
        await using var server = new ScriptedServer(async (_, _, token) =>
        {
            await cancel.CancelAsync();
            await Task.Delay(Timeout.Infinite, token);
        });
        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
            await HandshakeClient.FetchDescriptorAsync(server.Name, default, cancellationToken: cancel.Token));
    }

    [Fact]
    public async Task Probe_ClosedWithoutReply_IsUnreachableAndOtherStatusRefused()
    {
        await using var old = new ScriptedServer((stream, _, _) =>
        {
            stream.Socket.Shutdown(SocketShutdown.Send);
            return Task.CompletedTask;
        });
        Assert.Equal(CheckpointError.Unreachable,
            (await Assert.ThrowsAsync<CheckpointEngineException>(async () => await HandshakeClient.ProbeAsync(old.Name, cancellationToken: Token))).Error);
        await using ScriptedServer ill = ScriptedServer.Replying(HandshakeListenerTests.Frame(3, "{\"status\":\"ill\\n\"}"));
        Assert.Equal(CheckpointError.Refused,
            (await Assert.ThrowsAsync<CheckpointEngineException>(async () => await HandshakeClient.ProbeAsync(ill.Name, cancellationToken: Token))).Error);
    }

    [Theory]
    [InlineData("null", CheckpointError.Refused)]
    [InlineData("{\"name\":\"\",\"notify_msg\":\"\"}", CheckpointError.Refused)]
    [InlineData("[]", CheckpointError.ProtocolViolation)]
    public async Task Notify_NotTaken_IsAnError(string reply, CheckpointError error)
    {
        await using ScriptedServer server = ScriptedServer.Replying(HandshakeListenerTests.Frame(2, reply));
        Assert.Equal(error,
            (await Assert.ThrowsAsync<CheckpointEngineException>(async () => await HandshakeClient.NotifyAsync(server.Name, "a", "b", cancellationToken: Token))).Error);
    }

    [Fact]
    public async Task ProbeAndNotify_OurListener_Succeed()
    {
        var responder = new RecordingResponder();
        await using HandshakeListener listener = HandshakeListener.Start([new IPEndPoint(IPAddress.Loopback, 0)], responder);
        EndpointName name = EndpointName.FromEndPoint(listener.EndPoints[0]);
        await HandshakeClient.ProbeAsync(name, cancellationToken: Token);
        await HandshakeClient.NotifyAsync(name, "Näme\0", "\"quoted\"\n", cancellationToken: Token);
        Assert.Equal([("Näme\0", "\"quoted\"\n")], responder.Notifications);
    }

    private static async Task<CheckpointEngineException> FailsAsync(EndpointName target, CheckpointError error, HandshakeClientOptions? options = null)
    {
        var e = await Assert.ThrowsAsync<CheckpointEngineException>(async () =>
            await HandshakeClient.FetchDescriptorAsync(target, default, options ?? s_short, Token));
        Assert.Equal(error, e.Error);
        Assert.Contains(target.ToString(), e.Message, StringComparison.Ordinal);
        return e;
    }
}
