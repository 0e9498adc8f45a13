using System.Net;
using CheckpointEngine.Transfer.Handshake;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>What aborts, stalls or confuses Mooncake's listener must do nothing to ours: docs/mooncake-wire.md.</summary>
public class HandshakeListenerHostileTests
{
    private static readonly IPEndPoint s_any = new(IPAddress.Loopback, 0);
    private static readonly SegmentDescriptor s_descriptor = SegmentDescriptorReader.Read(Captures.ReadBody("01-metadata-fetch.rx"));

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public static TheoryData<byte, string> Malformed => new()
    {
        { 0, "" },
        { 0, "[]" },
        { 0, "null" },
        { 0, "1" },
        { 0, "{\"qp_num\":[1,}" },
        { 0, "{} {}" },
        { 1, "" },
        { 1, "{" },
        { 1, "nul" },
        { 1, "{}x" },
        { 1, new string('[', 1001) + new string(']', 1001) },
        { 1, new string('[', 500_000) },
        { 2, "[]" },
        { 2, "{\"name\":[]}" },
        { 2, "{\"name\":\"a\",\"notify_msg\":{}}" },
        { 2, "{\"name\":\"a\",\"notify_msg\":1}" },
        { 2, "{\"name\":\"\\ud800\"}" },
        { 3, "{]" },
        { 3, string.Concat(Enumerable.Repeat("{\"a\":", 1001)) + "1" + new string('}', 1001) },
        { 4, "{}" },
        { 0x20, "[]" },
        { 0x5b, "1,2]" },
        { 0x7f, "{}" },
        { 0x80, "{}" },
        { 0xff, "{}" },
    };

    [Theory]
    [MemberData(nameof(Malformed))]
    public async Task Message_Malformed_IsClosedWithoutReplyAndTheNextServed(byte type, string body)
    {
        var responder = new RecordingResponder(s_descriptor);
        await using HandshakeListener listener = HandshakeListener.Start([s_any], responder);
        Assert.Empty(await RawClient.ExchangeAsync(listener.EndPoints[0], HandshakeListenerTests.Frame(type, body)));
        Assert.Empty(responder.Notifications);
        Assert.NotEmpty(await RawClient.ExchangeAsync(listener.EndPoints[0], Captures.Read("02-probe.tx")));
    }

    [Theory]
    [InlineData("{\"local_nic_path\":{},\"qp_num\":[\"x\",null,{}],\"local_gid\":[]}")]
    [InlineData("{\"qp_num\":{}}")]
    public async Task Connection_WrongTypedFieldsToTcpOnly_IsRefusedLikeAnyOther(string body)
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder());
        Assert.NotEmpty(await RawClient.ExchangeAsync(listener.EndPoints[0], HandshakeListenerTests.Frame(0, body)));
    }

    [Theory]
    [InlineData(0UL)]
    [InlineData((1UL << 20) + 1)]
    [InlineData(1UL << 63)]
    [InlineData(ulong.MaxValue)]
    public async Task Length_OutOfRange_IsClosedWithoutReadingOn(ulong length)
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder());
        Assert.Empty(await RawClient.ExchangeAsync(listener.EndPoints[0], [.. BitConverter.GetBytes(length), 1, (byte)'{', (byte)'}']));
    }

    [Fact]
    public async Task Client_ClosesWithinItsFrame_EndsQuietly()
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor));
        byte[] request = Captures.Read("30-target-metadata.rx");
        foreach (int length in new[] { 0, 1, 7, 8, 9, request.Length - 1 })
        {
            using RawClient client = await RawClient.ConnectAsync(listener.EndPoints[0]);
            await client.SendAsync(request.AsMemory(0, length));
            client.HalfClose();
            Assert.Empty(await client.ReadToEndAsync());
        }
        await HandshakeListenerTests.UntilAsync(() => listener.ConnectionCount == 0);
    }

    [Fact]
    public async Task Client_Drips_HoldsUpNobodyAndIsClosedAtTheDeadline()
    {
        var time = new ManualTimeProvider();
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor), new HandshakeListenerOptions { TimeProvider = time });
        using RawClient dripping = await RawClient.ConnectAsync(listener.EndPoints[0]);
        await dripping.SendAsync(Captures.Read("01-metadata-fetch.tx").AsMemory(0, 8));
        await HandshakeListenerTests.UntilAsync(() => time.PendingTimers == 2);       // its deadline, beside that of those who have said nothing

        time.Advance(TimeSpan.FromSeconds(4));
        await dripping.SendAsync(new byte[] { 1 });
        Assert.Equal(Captures.Read("01-metadata-fetch.rx"), await RawClient.ExchangeAsync(listener.EndPoints[0], Captures.Read("01-metadata-fetch.tx")));
        Assert.True(listener.ConnectionCount >= 1);

        time.Advance(TimeSpan.FromSeconds(1));
        Assert.Empty(await dripping.ReadToEndAsync());
    }

    [Fact]
    public async Task Client_KeepsTheConnectionAfterItsReply_IsClosedAtTheDeadline()
    {
        var time = new ManualTimeProvider();
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor), new HandshakeListenerOptions { TimeProvider = time });
        using RawClient keeping = await RawClient.ConnectAsync(listener.EndPoints[0]);
        await keeping.SendAsync(Captures.Read("02-probe.tx"));
        Assert.Equal(Captures.Read("02-probe.rx"), await keeping.ReadToEndAsync());   // ends with the reply: the sending side is shut down
        Assert.Equal(1, listener.ConnectionCount);

        time.Advance(TimeSpan.FromSeconds(5));
        await HandshakeListenerTests.UntilAsync(() => listener.ConnectionCount == 0);
    }

    [Fact]
    public async Task Client_DoesNotTakeItsReply_IsClosedAtTheDeadline()
    {
        var time = new ManualTimeProvider();
        var huge = new SegmentDescriptor { Protocol = "tcp", Name = new string('n', 32 * 1024 * 1024) };
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(huge), new HandshakeListenerOptions { TimeProvider = time });
        using RawClient deaf = await RawClient.ConnectAsync(listener.EndPoints[0]);
        await deaf.SendAsync(Captures.Read("01-metadata-fetch.tx"));
        await HandshakeListenerTests.UntilAsync(() => time.PendingTimers == 2);
        for (int seconds = 0; listener.ConnectionCount != 0; seconds++)
        {
            Assert.True(seconds < 1000);
            time.Advance(TimeSpan.FromSeconds(1));
            await Task.Delay(5, Token);
        }
    }

    [Fact]
    public async Task Client_SendsOnAfterItsRequest_GetsItsReplyAndIsClosed()
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor));
        byte[] probe = Captures.Read("02-probe.tx");
        byte[] reply = await RawClient.ExchangeAsync(listener.EndPoints[0], [.. probe, .. probe, .. probe]);
        Assert.Equal(Captures.Read("02-probe.rx"), reply);
    }

    [Fact]
    public async Task Message_AnyBytes_GetAReplyOrAClose()
    {
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor),
            new HandshakeListenerOptions { ReadTimeout = TimeSpan.FromSeconds(1) });
        await Gen.Select(Gen.Byte[0, 6], Gen.Byte.Array[0, 60], Gen.Int[-1, 1]).SampleAsync(async (type, rest, wrongBy) =>
        {
            using RawClient client = await RawClient.ConnectAsync(listener.EndPoints[0]);
            await client.SendAsync((byte[])[.. BitConverter.GetBytes((long)rest.Length + 1 + wrongBy), type, .. rest]);
            client.HalfClose();
            await client.ReadToEndAsync();
        }, iter: 200, threads: 1);
        await HandshakeListenerTests.UntilAsync(() => listener.ConnectionCount == 0);
    }

    [Fact]
    public async Task Seeds_EveryOne_GetAReplyOrAClose()
    {
        string[] seeds = Directory.GetFiles(Path.Combine(AppContext.BaseDirectory, "corpora", "handshake"), "frame-*");
        Assert.NotEmpty(seeds);
        await using HandshakeListener listener = HandshakeListener.Start([s_any], new RecordingResponder(s_descriptor));
        foreach (string seed in seeds)
        {
            using RawClient client = await RawClient.ConnectAsync(listener.EndPoints[0]);
            await client.SendAsync(await File.ReadAllBytesAsync(seed, Token));
            client.HalfClose();
            Assert.True((await client.ReadToEndAsync()).Length == 0 || !seed.Contains("bad", StringComparison.Ordinal), seed);
        }
    }
}
