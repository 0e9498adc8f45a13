using System.Buffers.Binary;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

/// <summary>The client's side against servers that break rules.</summary>
public sealed class PeerClientTests
{
    private static readonly byte[] s_hello = HelloWith("xxh3");

    private static byte[] HelloWith(string digest, bool tokenRequired = false)
        => PeerSessionTests.Frame(PeerMessage.Hello, Encoding.UTF8.GetBytes(
            $$"""{"protocol":2,"nonce":"{{new string('0', 64)}}","digest":"{{digest}}","token_required":{{(tokenRequired ? "true" : "false")}}}"""));

    // Answers each frame of the client with the next of the answers, then waits.
    private static ScriptedPort Answering(params byte[][] answers) => new(async (stream, _, token) =>
    {
        foreach (byte[] answer in answers)
        {
            byte[] header = new byte[8];
            await stream.ReadExactlyAsync(header, token);
            await stream.ReadExactlyAsync(new byte[BinaryPrimitives.ReadInt32LittleEndian(header)], token);
            await stream.WriteAsync(answer, token);
        }
        await Task.Delay(Timeout.Infinite, token);
    });

    private static Task<PeerClient> ConnectAsync(ScriptedPort port, TimeSpan? timeout = null, AccessToken? token = null)
        => PeerClient.ConnectAsync(EndpointName.FromEndPoint(port.EndPoint), token, timeout ?? TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken);

    private static async Task<CheckpointEngineException> FailAsync(Func<PeerClient, CancellationToken, Task> ask, params byte[][] answers)
    {
        await using ScriptedPort port = Answering([s_hello, .. answers]);
        using PeerClient client = await ConnectAsync(port);
        return await Assert.ThrowsAsync<CheckpointEngineException>(() => ask(client, TestContext.Current.CancellationToken));
    }

    public static TheoryData<byte[]> BadHellos => new(
        PeerSessionTests.Frame(PeerMessage.Hello, "null"u8),
        PeerSessionTests.Frame(PeerMessage.Hello, "not json"u8),
        PeerSessionTests.Frame(PeerMessage.Hello, "{\"protocol\":2,\"nonce\":\"0\"}"u8),
        PeerSessionTests.Frame(PeerMessage.Proof, new byte[32]),
        [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0],
        [0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0],
        "HTTP/1.1 400 Bad Request\r\n\r\n"u8.ToArray());

    [Theory]
    [MemberData(nameof(BadHellos))]
    public async Task Connect_BadHello_IsAProtocolViolation(byte[] hello)
    {
        await using ScriptedPort port = Answering(hello);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => ConnectAsync(port));
        Assert.Equal(CheckpointError.ProtocolViolation, failure.Error);
    }

    [Theory]
    [InlineData("{}")]
    [InlineData("{\"protocol\":1,\"nonce\":\"0000000000000000000000000000000000000000000000000000000000000000\"}")]
    public async Task Connect_ServerThatBindsNoProofToTls_IsNotSpokenTo(string hello)
    {
        await using ScriptedPort port = Answering(PeerSessionTests.Frame(PeerMessage.Hello, Encoding.UTF8.GetBytes(hello)));
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => ConnectAsync(port));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
    }

    [Fact]
    public async Task Connect_ServerWithoutTheToken_IsRefused()
    {
        await using ScriptedPort port = Answering(HelloWith("none", tokenRequired: true), PeerSessionTests.Frame(PeerMessage.Proof, new byte[32]));
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => ConnectAsync(port, null, AccessToken.FromText("correct horse")));
        Assert.Equal(CheckpointError.Refused, failure.Error);
    }

    [Fact]
    public async Task Connect_Silence_IsATimeout()
    {
        await using var port = new ScriptedPort((_, _, token) => Task.Delay(Timeout.Infinite, token));
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => ConnectAsync(port, TimeSpan.FromMilliseconds(200)));
        Assert.Equal(CheckpointError.Timeout, failure.Error);
    }

    public static TheoryData<byte[]> BadDigests => new(
        PeerSessionTests.Frame(PeerMessage.Digests),                                     // nothing
        PeerSessionTests.Frame(PeerMessage.Digests, 1, 0, 0, 0),                                   // half a generation
        PeerSessionTests.Frame(PeerMessage.Digests, [.. new byte[8]]),                             // no tensor
        PeerSessionTests.Frame(PeerMessage.Digests, [.. new byte[8], 1, 0, 0, 0]),                 // a count without digests
        PeerSessionTests.Frame(PeerMessage.Digests, [.. new byte[8], 1, 0, 0, 0, .. new byte[15]]),      // cut
        PeerSessionTests.Frame(PeerMessage.Digests, [.. new byte[8], 2, 0, 0, 0, .. new byte[32]]),      // of another tensor
        PeerSessionTests.Frame(PeerMessage.Digests, [.. new byte[8], 1, 0, 0, 0, .. new byte[17]]),      // too long
        PeerSessionTests.Frame(PeerMessage.Digests, [.. new byte[8], 0, 0, 0, 0]),
        PeerSessionTests.Frame(PeerMessage.SideFiles, new byte[20]),
        [0xff, 0xff, 0xff, 0x7f, 4, 0, 0, 0]);

    [Theory]
    [MemberData(nameof(BadDigests))]
    public async Task GetDigests_BadAnswer_IsAProtocolViolation(byte[] answer)
        => Assert.Equal(CheckpointError.ProtocolViolation, (await FailAsync((client, token) => client.GetDigestsAsync(new[] { (4096UL, 100L) }, token), answer)).Error);

    [Fact]
    public async Task GetDigests_ServerThatMakesNone_IsNotAsked()
    {
        await using ScriptedPort port = Answering(HelloWith("of-a-later-version"));
        using PeerClient client = await ConnectAsync(port, TimeSpan.FromSeconds(5));
        Assert.Equal([null], (await client.GetDigestsAsync(new[] { (4096UL, 100L) }, TestContext.Current.CancellationToken)).Digests);
    }

    [Theory]
    [InlineData("../x.json")]
    [InlineData(".hidden.json")]
    [InlineData("a/b.json")]
    [InlineData("a\\b.json")]
    [InlineData("a\0.json")]
    [InlineData("")]
    [InlineData("..")]
    [InlineData("/etc/passwd.txt")]
    [InlineData("model.safetensors")]
    [InlineData("model.safetensors.index.json")]
    [InlineData("run.sh")]
    public async Task GetSideFiles_HostileName_IsAProtocolViolation(string name)
        => Assert.Equal(CheckpointError.ProtocolViolation, (await FailAsync((client, token) => client.GetSideFilesAsync(1, token), SideFiles((name, [1])))).Error);

    [Fact]
    public async Task GetSideFiles_BadAnswers_AreProtocolViolations()
    {
        byte[] good = SideFiles(("config.json", [1, 2, 3]));
        byte[][] answers =
        [
            PeerSessionTests.Frame(PeerMessage.SideFiles),
            PeerSessionTests.Frame(PeerMessage.SideFiles, 0xff, 0xff, 0xff, 0xff),
            PeerSessionTests.Frame(PeerMessage.SideFiles, 1, 0, 1, 0),                           // 65,537 files in nothing
            PeerSessionTests.Frame(PeerMessage.SideFiles, good.AsSpan(8..^1)),                          // cut
            PeerSessionTests.Frame(PeerMessage.SideFiles, [.. good[8..], 0]),                    // too long
            PeerSessionTests.Frame(PeerMessage.SideFiles, [1, 0, 0, 0, 1, 0, (byte)'a', 0xff, 0xff, 0xff, 0xff]),
            [0, 0, 0, 0x10, 5, 0, 0, 0],                                                         // 256 MiB
        ];
        foreach (byte[] answer in answers)
        {
            Assert.Equal(CheckpointError.ProtocolViolation, (await FailAsync((client, token) => client.GetSideFilesAsync(1, token), answer)).Error);
        }
        await using ScriptedPort port = Answering(s_hello, good);
        using PeerClient honest = await ConnectAsync(port);
        Assert.Equal("config.json", Assert.Single(await honest.GetSideFilesAsync(1, TestContext.Current.CancellationToken)).Name);
    }

    [Fact]
    public async Task GetMetas_NoMetasOrTooMany_IsTypedAndEndsTheConversation()
    {
        Func<PeerClient, CancellationToken, Task> ask = (client, token) => client.GetMetasAsync("model", 1 << 16, token);
        Assert.Equal(CheckpointError.InvalidData, (await FailAsync(ask, PeerSessionTests.Frame(PeerMessage.Metas, "nonsense, and more of it"u8))).Error);
        Assert.Equal(CheckpointError.ProtocolViolation, (await FailAsync(ask, PeerSessionTests.Frame(PeerMessage.Metas, new byte[(1 << 16) + 1]))).Error);
        Assert.Equal(CheckpointError.ProtocolViolation, (await FailAsync(ask, [0xff, 0xff, 0xff, 0x7f, 3, 0, 0, 0])).Error);

        await using ScriptedPort port = Answering(s_hello, PeerSessionTests.Frame(PeerMessage.Metas, "nonsense, and more of it"u8), SideFiles());
        using PeerClient client = await ConnectAsync(port);
        await Assert.ThrowsAsync<CheckpointEngineException>(() => ask(client, TestContext.Current.CancellationToken));
        var second = await Assert.ThrowsAsync<CheckpointEngineException>(() => client.GetSideFilesAsync(1, TestContext.Current.CancellationToken));
        Assert.Equal(CheckpointError.Unreachable, second.Error);      // not what was left of the first answer
    }

    [Fact]
    public async Task Ask_ErrorAnswer_IsThatErrorAndTheConversationGoesOn()
    {
        await using ScriptedPort port = Answering(s_hello, PeerSessionTests.Frame(PeerMessage.Error, [2, 0, .. "not here"u8]),
            PeerSessionTests.Frame(PeerMessage.Error, 0xff, 0xff), PeerSessionTests.Frame(PeerMessage.Error), SideFiles());
        using PeerClient client = await ConnectAsync(port);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => client.GetSideFilesAsync(1, TestContext.Current.CancellationToken));
        Assert.Equal(CheckpointError.NotFound, failure.Error);
        Assert.Contains("not here", failure.Message, StringComparison.Ordinal);
        for (int i = 0; i < 2; i++)
        {
            failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => client.GetSideFilesAsync(1, TestContext.Current.CancellationToken));
            Assert.Equal(CheckpointError.ProtocolViolation, failure.Error);
        }
        Assert.Empty(await client.GetSideFilesAsync(1, TestContext.Current.CancellationToken));
    }

    [Fact]
    public async Task Ask_ErrorOfMoreThanAMebibyte_IsAProtocolViolation()
        => Assert.Equal(CheckpointError.ProtocolViolation, (await FailAsync((client, token) => client.GetSideFilesAsync(1, token), [1, 0, 0x10, 0, 0xff, 0xff, 0, 0])).Error);

    [Fact]
    public async Task Ask_PayloadThatNeverEnds_IsATimeout()
    {
        await using ScriptedPort port = Answering(s_hello, SideFiles(("config.json", new byte[100]))[..50]);
        using PeerClient client = await ConnectAsync(port, TimeSpan.FromMilliseconds(400));
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => client.GetSideFilesAsync(1, TestContext.Current.CancellationToken));
        Assert.Equal(CheckpointError.Timeout, failure.Error);
    }

    [Fact]
    public async Task Ask_CancelledAmidAnAnswer_EndsAndClosesTheConversation()
    {
        await using ScriptedPort port = Answering(s_hello, SideFiles(("config.json", new byte[100]))[..50]);
        using PeerClient client = await ConnectAsync(port);
        using var cancel = new CancellationTokenSource();
        Task<IReadOnlyList<SideFile>> asking = client.GetSideFilesAsync(1, cancel.Token);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => asking);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => client.GetSideFilesAsync(1, TestContext.Current.CancellationToken));
        Assert.Equal(CheckpointError.Unreachable, failure.Error);
    }

    private static byte[] SideFiles(params (string Name, byte[] Bytes)[] files)
    {
        var payload = new MemoryStream();
        using var writer = new BinaryWriter(payload);
        writer.Write(files.Length);
        foreach ((string name, byte[] bytes) in files)
        {
            byte[] utf8 = Encoding.UTF8.GetBytes(name);
            writer.Write((ushort)utf8.Length);
            writer.Write(utf8);
            writer.Write(bytes.Length);
            writer.Write(bytes);
        }
        return PeerSessionTests.Frame(PeerMessage.SideFiles, payload.ToArray());
    }
}
