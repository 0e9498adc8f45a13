using System.Buffers;
using System.Buffers.Binary;
using System.Diagnostics;
using System.Net;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Tests;

/// <summary>The peer service against clients that break rules.</summary>
public sealed class PeerSessionTests
{
    private static readonly AccessToken s_token = AccessToken.FromText("correct horse");
    private static readonly byte[] s_nonce = [.. Enumerable.Range(1, 32).Select(i => (byte)i)];

    internal sealed class Responder : IPeerResponder
    {
        internal byte[] SideFile { get; init; } = [];

        internal CheckpointMetas Metas { get; init; } = MetasSamples.KimiK2(100, 2);

        public string Instance => "test";

        public DigestAlgorithm Digest => DigestAlgorithm.Xxh3;

        public PublishedMetas GetMetas(string name) => name == "model" ? new PublishedMetas(Metas, "\"1\"")
            : throw new CheckpointEngineException(CheckpointError.NotFound, $"no checkpoint '{name}' here");

        public async Task<PublishedMetas> WaitForMetasAsync(string name, string entityTag, CancellationToken cancellationToken)
        {
            PublishedMetas metas = GetMetas(name);
            if (metas.EntityTag == entityTag)
            {
                await Task.Delay(Timeout.Infinite, cancellationToken);
            }
            return metas;
        }

        public HeldTensor? AcquireTensor(ulong address, ulong lengthBytes) => null;

        internal Func<HeldMemory>? Memory { get; init; }

        public HeldMemory AcquireMemory(ulong address, ulong lengthBytes, PeerCredentials peer)
            => Memory is not null ? Memory() : throw new CheckpointEngineException(CheckpointError.NotFound, "no memory here");

        internal Func<ReadLease?> Lease { get; init; } = () => new ReadLease(1, () => 1);

        public ReadLease? TryLease(ulong address, string peer) => Lease();

        internal List<RdmaKey> RdmaKeys { get; } = [];

        public void OfferRdma(ReadLease lease, ReadOnlySpan<byte> conversationKey, IBufferWriter<byte> answer)
        {
            byte[] salt = [.. Enumerable.Repeat((byte)3, RdmaKey.SaltBytes)];
            RdmaKeys.Add(RdmaKey.Make(conversationKey, 7, salt));
            answer.Write<byte>([7, .. new byte[RdmaKey.NumberBytes - 1], .. salt, .. "{}\n"u8]);
        }

        public IReadOnlyList<SideFile>? FindSideFiles(ulong address) => address == 1 ? [new SideFile("config.json", SideFile)] : null;
    }

    internal static PeerListener Listen(AccessToken? token = null, PeerListenerOptions? options = null, Responder? responder = null)
        => new(new IPEndPoint(IPAddress.Loopback, 0), responder ?? new Responder(), token, NullLogger.Instance, options);

    internal static byte[] Frame(PeerMessage type, params ReadOnlySpan<byte> payload)
    {
        byte[] frame = new byte[8 + payload.Length];
        new PeerFrame(type, payload.Length).Encode(frame);
        payload.CopyTo(frame.AsSpan(8));
        return frame;
    }

    private static byte[] Hello(int protocol = 2, string? nonce = null)
        => Frame(PeerMessage.Hello, Encoding.UTF8.GetBytes($$"""{"protocol":{{protocol}},"nonce":"{{nonce ?? Convert.ToHexStringLower(s_nonce)}}","later":[1]}"""));

    private static async Task<(PeerMessage Type, byte[] Payload)> ReadFrameAsync(RawClient client)
    {
        byte[] header = await client.ReadExactlyAsync(8);
        Assert.True(PeerFrame.TryDecode(header, int.MaxValue, out PeerFrame frame));
        return (frame.Type, await client.ReadExactlyAsync(frame.LengthBytes));
    }

    private static async Task<RawClient> IntroduceAsync(PeerListener listener)
    {
        RawClient client = await RawClient.ConnectAsync(listener.LocalEndPoint);
        await client.SendAsync(Hello());
        Assert.Equal(PeerMessage.Hello, (await ReadFrameAsync(client)).Type);
        return client;
    }

    private static CheckpointError ErrorOf(byte[] payload) => (CheckpointError)BinaryPrimitives.ReadUInt16LittleEndian(payload);

    private static EndpointName NameOf(PeerListener listener) => EndpointName.FromEndPoint(listener.LocalEndPoint);

    private static Task<PeerClient> ConnectAsync(PeerListener listener, AccessToken? token)
        => PeerClient.ConnectAsync(NameOf(listener), token, TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken);

    public static TheoryData<byte[]> NoHello => new(
        [1, 2, 3],
        Frame(PeerMessage.Metas, "model"u8),
        Frame(PeerMessage.Hello),
        Frame(PeerMessage.Hello, "{"u8),
        Frame(PeerMessage.Hello, "null"u8),
        Frame(PeerMessage.Hello, "[]"u8),
        Frame(PeerMessage.Hello, "{\"protocol\":\"1\"}"u8),
        Hello(protocol: 0),
        Hello(protocol: 1),                                // binds no proof to TLS
        Hello(nonce: "00"),
        Hello(nonce: new string('0', 66)),
        Hello(nonce: new string('x', 64)),
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n"u8.ToArray(),
        [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0],             // a negative length
        [0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0],             // 2 GiB
        [1, 0x40, 0, 0, 1, 0, 0, 0],                      // a byte more than a hello may have
        [2, 0, 0, 0, 1, 0, 1, 0, (byte)'{', (byte)'}']);  // reserved bytes that are not zero

    [Theory]
    [MemberData(nameof(NoHello))]
    public async Task Session_NoHello_IsClosedWithoutAnAnswer(byte[] bytes)
    {
        await using PeerListener listener = Listen();
        using RawClient client = await RawClient.ConnectAsync(listener.LocalEndPoint);
        await client.SendAsync(bytes);
        if (bytes.Length == 3)
        {
            client.HalfClose();
        }
        Assert.Empty(await client.ReadToEndAsync());
    }

    [Theory]
    [InlineData(0)]
    [InlineData(10)]
    public async Task Session_SilenceBeforeHello_IsClosedAfterTheIntroductionTimeout(int bytes)
    {
        await using PeerListener listener = Listen(options: new PeerListenerOptions { IntroductionTimeout = TimeSpan.FromMilliseconds(200) });
        using RawClient client = await RawClient.ConnectAsync(listener.LocalEndPoint);
        long start = Stopwatch.GetTimestamp();
        await client.SendAsync(Hello().AsMemory(0, bytes));
        Assert.Empty(await client.ReadToEndAsync());
        Assert.True(Stopwatch.GetElapsedTime(start) >= TimeSpan.FromMilliseconds(150));
    }

    [Fact]
    public async Task Session_SilenceAfterHello_IsClosedAfterTheIdleTimeout()
    {
        await using PeerListener listener = Listen(options: new PeerListenerOptions { IdleTimeout = TimeSpan.FromMilliseconds(200) });
        using RawClient client = await IntroduceAsync(listener);
        Assert.Empty(await client.ReadToEndAsync());
    }

    [Fact]
    public async Task Session_ClientThatNeverReads_IsClosedAfterTheStallTimeout()
    {
        await using PeerListener listener = Listen(options: new PeerListenerOptions { StallTimeout = TimeSpan.FromMilliseconds(300) }, responder: new Responder { SideFile = new byte[48 << 20] });
        using RawClient client = await IntroduceAsync(listener);
        await client.SendAsync(Frame(PeerMessage.SideFiles, 1, 0, 0, 0, 0, 0, 0, 0));
        await TcpDataListenerHostileTests.Until(() => listener.SessionCount == 0);
        Assert.True((await client.ReadToEndAsync()).Length < 48 << 20);
    }

    [Fact]
    public async Task Session_MoreThanAllowed_AreToldWhyAndClosed()
    {
        await using PeerListener listener = Listen(options: new PeerListenerOptions { Limits = new ConnectionLimits(1, 1) });
        using RawClient first = await IntroduceAsync(listener);
        using RawClient second = await RawClient.ConnectAsync(listener.LocalEndPoint);
        (PeerMessage type, byte[] payload) = await ReadFrameAsync(second);
        Assert.Equal((PeerMessage.Error, CheckpointError.Busy), (type, ErrorOf(payload)));
        Assert.Empty(await second.ReadToEndAsync());
        await first.SendAsync(Frame(PeerMessage.Metas, "nothing"u8));
        Assert.Equal(PeerMessage.Error, (await ReadFrameAsync(first)).Type);
    }

    [Fact]
    public async Task Session_BadRequests_AreAnsweredByErrorsAndTheConversationGoesOn()
    {
        await using PeerListener listener = Listen();
        using RawClient client = await IntroduceAsync(listener);
        (byte[] Request, CheckpointError Error)[] requests =
        [
            (Frame((PeerMessage)99, 1, 2), CheckpointError.NotSupported),
            (Frame(PeerMessage.Metas, "other"u8), CheckpointError.NotFound),
            (Frame(PeerMessage.Metas, 0xff, 0xfe), CheckpointError.NotFound),
            (Frame(PeerMessage.Digests), CheckpointError.ProtocolViolation),
            (Frame(PeerMessage.Digests, 2, 0, 0, 0, 1), CheckpointError.ProtocolViolation),
            (Frame(PeerMessage.Digests, [0xff, 0xff, 0xff, 0xff, .. new byte[32]]), CheckpointError.ProtocolViolation),
            (Frame(PeerMessage.Digests, [1, 0x10, 0, 0, .. new byte[4097 * 16]]), CheckpointError.ProtocolViolation),
            (Frame(PeerMessage.SideFiles, 1, 2, 3), CheckpointError.ProtocolViolation),
            (Frame(PeerMessage.Lease, 1, 2, 3), CheckpointError.ProtocolViolation),
            (Frame(PeerMessage.Rdma, 1, 2, 3), CheckpointError.ProtocolViolation),
            (Frame(PeerMessage.Rdma, new byte[8]), CheckpointError.Refused),          // without a lease
        ];
        foreach ((byte[] request, CheckpointError error) in requests)
        {
            await client.SendAsync(request);
            (PeerMessage type, byte[] payload) = await ReadFrameAsync(client);
            Assert.Equal(PeerMessage.Error, type);
            Assert.Equal(error, ErrorOf(payload));
        }
        await client.SendAsync(Frame(PeerMessage.Digests, [1, 0, 0, 0, .. new byte[16]]));      // of nothing that is held
        Assert.Equal([.. new byte[8], 0xff, 0xff, 0xff, 0xff], (await ReadFrameAsync(client)).Payload);
        await client.SendAsync(Frame(PeerMessage.SideFiles, 9, 0, 0, 0, 0, 0, 0, 0));
        Assert.Equal([0, 0, 0, 0], (await ReadFrameAsync(client)).Payload);
        await client.SendAsync((byte[])[1, 0, 0x10, 0, 3, 0, 0, 0]);                                // a byte above 1 MiB
        Assert.Empty(await client.ReadToEndAsync());
    }

    [Fact]
    public async Task Token_RightWrongAndMissing_OnlyTheRightOneIsLetIn()
    {
        await using PeerListener listener = Listen(s_token);
        using (PeerClient right = await ConnectAsync(listener, s_token))
        {
            Assert.Equal(100, (await right.GetMetasAsync("model", 1 << 20, TestContext.Current.CancellationToken)).Tensors.Count);
        }
        foreach (AccessToken? wrong in new[] { null, AccessToken.FromText("battery staple") })
        {
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => ConnectAsync(listener, wrong));
            Assert.Equal(CheckpointError.Refused, failure.Error);
            Assert.DoesNotContain("staple", failure.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Rdma_ForALease_BothEndsMakeTheSameKeyAndEachConversationItsOwn(bool withToken)
    {
        AccessToken? token = withToken ? s_token : null;
        var responder = new Responder();
        await using PeerListener listener = Listen(token, responder: responder);
        for (int conversation = 0; conversation < 2; conversation++)
        {
            using PeerClient client = await ConnectAsync(listener, token);
            var early = await Assert.ThrowsAsync<CheckpointEngineException>(() => client.GetRdmaAsync(5, 1 << 20, TestContext.Current.CancellationToken));
            Assert.Equal(CheckpointError.Refused, early.Error);
            await client.LeaseAsync(5, TestContext.Current.CancellationToken);
            (RdmaKey key, _) = await client.GetRdmaAsync(5, 1 << 20, TestContext.Current.CancellationToken);
            Assert.Equal((UInt128)7, key.Number);
            Assert.Equal(responder.RdmaKeys[conversation].Secret, key.Secret);
        }
        Assert.NotEqual(responder.RdmaKeys[0].Secret, responder.RdmaKeys[1].Secret);
    }

    [Fact]
    public async Task Token_RequestBeforeTheProof_IsRefusedAndClosed()
    {
        await using PeerListener listener = Listen(s_token);
        using RawClient client = await IntroduceAsync(listener);
        await client.SendAsync(Frame(PeerMessage.Metas, "model"u8));
        (PeerMessage type, byte[] payload) = await ReadFrameAsync(client);
        Assert.Equal((PeerMessage.Error, CheckpointError.Refused), (type, ErrorOf(payload)));
        Assert.Empty(await client.ReadToEndAsync());
    }

    [Fact]
    public async Task Token_ReplayedProofOrOneForALane_IsRefused()
    {
        await using PeerListener listener = Listen(s_token);
        byte[] proof = new byte[32];
        Assert.Equal(PeerMessage.Proof, await ProveAsync(serverNonce => TokenChallenge.Prove(s_token.Secrets[0], TokenChallenge.Purpose.PeerService, false, s_nonce, serverNonce, [], proof)));
        Assert.Equal(PeerMessage.Error, await ProveAsync(_ => { }));
        Assert.Equal(PeerMessage.Error, await ProveAsync(serverNonce => TokenChallenge.Prove(s_token.Secrets[0], TokenChallenge.Purpose.TcpLane, false, s_nonce, serverNonce, [], proof)));
        Assert.Equal(PeerMessage.Error, await ProveAsync(serverNonce => TokenChallenge.Prove(s_token.Secrets[0], TokenChallenge.Purpose.PeerService, true, s_nonce, serverNonce, [], proof)));

        async Task<PeerMessage> ProveAsync(Action<byte[]> prove)
        {
            using RawClient client = await RawClient.ConnectAsync(listener.LocalEndPoint);
            await client.SendAsync(Hello());
            using var hello = System.Text.Json.JsonDocument.Parse((await ReadFrameAsync(client)).Payload);
            Assert.True(hello.RootElement.GetProperty("token_required").GetBoolean());
            prove(Convert.FromHexString(hello.RootElement.GetProperty("nonce").GetString()!));
            await client.SendAsync(Frame(PeerMessage.Proof, proof));
            return (await ReadFrameAsync(client)).Type;
        }
    }

    [Fact]
    public async Task Dispose_WithOpenSessions_ClosesThemAndEnds()
    {
        PeerListener listener = Listen(responder: new Responder { SideFile = new byte[48 << 20] });
        using RawClient silent = await RawClient.ConnectAsync(listener.LocalEndPoint);
        using RawClient idle = await IntroduceAsync(listener);
        using RawClient busy = await IntroduceAsync(listener);
        await busy.SendAsync(Frame(PeerMessage.SideFiles, 1, 0, 0, 0, 0, 0, 0, 0));
        await busy.ReadSomeAsync();
        await listener.DisposeAsync().AsTask().WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken);
        Assert.Empty(await silent.ReadToEndAsync());
        Assert.Empty(await idle.ReadToEndAsync());
    }
}
