using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using CheckpointEngine.Access;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Tests;

/// <summary>The token on the data port.</summary>
public sealed class TcpTokenTests
{
    private const byte Challenge = DataHeader.Challenge | DataHeader.Acknowledged;
    private static readonly AccessToken s_token = AccessToken.FromText("correct horse");

    private static DataPort Guarded(PlainPeers? plain = null) => new(new TcpDataListenerOptions { Token = s_token, PlainPeers = plain ?? PlainPeers.None });

    private static ReadStatus ReadFirst(TcpReadLane lane, TestMemory memory)
    {
        byte[] bytes = GC.AllocateArray<byte>(16, pinned: true);
        lane.Submit(new ReadRequest(memory.Address, Marshal.UnsafeAddrOfPinnedArrayElement(bytes, 0), 16, 0));
        return lane.Wait(null).Status;
    }

    [Fact]
    public async Task Lane_RightToken_Reads()
    {
        await using DataPort port = Guarded();
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        using TcpReadLane lane = port.OpenLane(token: s_token);
        Assert.Equal(ReadStatus.Done, ReadFirst(lane, memory));
    }

    [Fact]
    public async Task Lane_NoToken_IsRefusedUnlessListed()
    {
        await using DataPort port = Guarded();
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        using TcpReadLane lane = port.OpenLane();
        Assert.Equal(ReadStatus.Refused, ReadFirst(lane, memory));

        await using DataPort listing = Guarded(PlainPeers.Parse("127.0.0.0/8"));
        using var listed = new TestMemory(listing.Registry, 16, TestMemory.OfTarget);
        using TcpReadLane plain = listing.OpenLane();
        Assert.Equal(ReadStatus.Done, ReadFirst(plain, listed));
        using TcpReadLane proved = listing.OpenLane(token: s_token);
        Assert.Equal(ReadStatus.Done, ReadFirst(proved, listed));
    }

    [Fact]
    public async Task Lane_WrongToken_IsRefused()
    {
        await using DataPort port = Guarded();
        var failure = Assert.Throws<CheckpointEngineException>(() => port.OpenLane(token: AccessToken.FromText("battery staple")));
        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.DoesNotContain("battery", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Lane_ServerWithoutToken_IsRefused()
    {
        await using var port = new DataPort();
        Assert.Equal(CheckpointError.Refused, Assert.Throws<CheckpointEngineException>(() => port.OpenLane(token: s_token)).Error);
    }

    [Theory]
    [InlineData(false)]      // as v0.3.12: not registered, status 1, close
    [InlineData(true)]       // as v0.3.11: the unmapped address 0, close
    public async Task Lane_OldServerThatDoesNotKnowTheChallenge_IsRefused(bool closesOnly)
    {
        await using var port = new ScriptedPort(async (stream, _, token) =>
        {
            DataHeader header = await ScriptedPort.ReadHeaderAsync(stream, token);
            Assert.Equal(0UL, header.Address);
            await stream.WriteAsync(closesOnly ? [] : DataPort.Status(DataHeader.StatusRejected), token);
        });
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => Task.Run(() => DataPort.Open(DataPort.Target(port.EndPoint, 2, true, s_token))));
        Assert.Equal(CheckpointError.Refused, failure.Error);
    }

    [Fact]
    public async Task Lane_ServerThatOnlyClaimsTheToken_GetsNoProof()
    {
        int after = -1;
        await using (var port = new ScriptedPort(async (stream, _, token) =>
        {
            await ScriptedPort.ReadHeaderAsync(stream, token);
            await stream.ReadExactlyAsync(new byte[32], token);
            await stream.WriteAsync((byte[])[.. DataPort.Status(DataHeader.StatusOk), .. new byte[64]], token);
            after = await stream.ReadAsync(new byte[64], token);
        }))
        {
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => Task.Run(() => DataPort.Open(DataPort.Target(port.EndPoint, 2, true, s_token))));
            Assert.Equal(CheckpointError.Refused, failure.Error);
            await TcpDataListenerHostileTests.Until(() => Volatile.Read(ref after) >= 0);
        }
        Assert.Equal(0, after);
    }

    [Fact]
    public async Task Lane_AbortedAtASilentChallenge_EndsAtOnce()
    {
        var asked = new TaskCompletionSource();
        await using var port = new ScriptedPort(async (stream, _, token) =>
        {
            await ScriptedPort.ReadHeaderAsync(stream, token);
            asked.SetResult();
            await Task.Delay(Timeout.Infinite, token);
        });
        using var lane = new TcpReadLane(DataPort.Target(port.EndPoint, 2, true, s_token, TimeSpan.FromMinutes(5)));
        Task connect = Task.Run(lane.Connect, TestContext.Current.CancellationToken);
        await asked.Task.WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken);
        lane.Abort();
        await Assert.ThrowsAsync<CheckpointEngineException>(() => connect.WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken));
    }

    [Fact]
    public async Task Lane_AbortedWhileItsAddressDoesNotAnswer_EndsAtOnce()
    {
        // A listener whose queue is full answers no further SYN: connect(2) waits.
        using var full = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        full.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        full.Listen(0);
        var endPoint = (IPEndPoint)full.LocalEndPoint!;
        using var first = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await first.ConnectAsync(endPoint, TestContext.Current.CancellationToken);
        using var lane = new TcpReadLane(DataPort.Target(endPoint, 2, true) with { ConnectTimeout = TimeSpan.FromMinutes(5) });
        Task connect = Task.Run(lane.Connect, TestContext.Current.CancellationToken);
        string waiting = $"{endPoint.Port:X4} 02 ";
        await TcpDataListenerHostileTests.Until(() => File.ReadLines("/proc/net/tcp").Any(line => line.Contains(waiting, StringComparison.Ordinal)));
        lane.Abort();
        await Assert.ThrowsAsync<CheckpointEngineException>(() => connect.WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken));
    }

    [Fact]
    public void Lane_AbortedBeforeItConnects_DoesNotConnect()
    {
        using var lane = new TcpReadLane(DataPort.Target(new IPEndPoint(IPAddress.Loopback, 1), 2, true));
        lane.Abort();
        Assert.Contains("aborted", Assert.Throws<CheckpointEngineException>(lane.Connect).Message);
    }

    [Fact]
    public async Task Lane_ServerThatIsSilentAtTheChallenge_IsATimeout()
    {
        await using var port = new ScriptedPort((_, _, token) => Task.Delay(Timeout.Infinite, token));
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => Task.Run(
            () => DataPort.Open(DataPort.Target(port.EndPoint, 2, true, s_token, TimeSpan.FromMilliseconds(200)))));
        Assert.Equal(CheckpointError.Timeout, failure.Error);
    }

    [Fact]
    public async Task Listener_ReplayedProof_IsRefused()
    {
        await using DataPort port = Guarded();
        using var memory = new TestMemory(port.Registry, 16, TestMemory.OfTarget);
        byte[] nonce = [.. Enumerable.Range(0, 32).Select(i => (byte)i)];
        byte[] proof = new byte[32];
        byte[] first = await SayAsync(serverNonce => TokenChallenge.Prove(s_token.Secrets[0], TokenChallenge.Purpose.TcpLane, false, nonce, serverNonce, [], proof));
        Assert.Equal((byte[])[.. DataPort.Status(DataHeader.StatusOk), .. DataPort.Status(DataHeader.StatusOk), .. memory.Bytes(0, 16)], first);
        byte[] replayed = await SayAsync(_ => { });
        Assert.Equal(DataPort.Status(DataHeader.StatusRejected), replayed);

        async Task<byte[]> SayAsync(Action<byte[]> prove)
        {
            using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
            await client.SendAsync((byte[])[.. DataPort.Header(32, 0, Challenge), .. nonce]);
            byte[] answer = await client.ReadExactlyAsync(8 + 32 + 32);
            Assert.NotNull(TokenChallenge.Check(s_token, TokenChallenge.Purpose.TcpLane, true, nonce, answer.AsSpan(8, 32), [], answer.AsSpan(40)));
            prove(answer[8..40]);
            await client.SendAsync((byte[])[.. proof, .. DataPort.Header(16, memory.Address, 0x80)]);
            client.HalfClose();
            return await client.ReadToEndAsync();
        }
    }

    [Fact]
    public async Task Listener_ServersProofSentBack_IsRefused()
    {
        await using DataPort port = Guarded();
        using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
        await client.SendAsync((byte[])[.. DataPort.Header(32, 0, Challenge), .. new byte[32]]);
        byte[] answer = await client.ReadExactlyAsync(72);
        await client.SendAsync(answer.AsMemory(40));
        Assert.Equal(DataPort.Status(DataHeader.StatusRejected), await client.ReadToEndAsync());
    }

    [Fact]
    public async Task Listener_ChallengeHalfSaid_IsCutAfterTheStallTimeout()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Token = s_token, PlainPeers = PlainPeers.None, StallTimeout = TimeSpan.FromMilliseconds(200) });
        using RawClient client = await RawClient.ConnectAsync(port.EndPoint);
        await client.SendAsync((byte[])[.. DataPort.Header(32, 0, Challenge), .. new byte[31]]);
        Assert.Empty(await client.ReadToEndAsync());
    }
}
