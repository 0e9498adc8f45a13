using System.Net.Security;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Tests;

/// <summary>The data port and lanes within TLS: the same answers as without, and ends for whoever breaks rules.</summary>
public sealed class TcpTlsTests : IDisposable
{
    private const byte OurRead = DataHeader.LineRead | DataHeader.Acknowledged;
    private static readonly TimeSpan s_short = TimeSpan.FromMilliseconds(300);
    private readonly TempDirectory _temp = new();
    private readonly TestCertificates _authority = new("Test authority");
    private readonly X509Certificate2 _certificate;
    private readonly IConnectionSecurity _security;
    private readonly RecordedLog _log = new();

    public TcpTlsTests()
    {
        _certificate = _authority.Issue(isClient: false);
        _temp.Write("authority", _authority.Authority.ExportCertificatePem());
        _temp.Write("cert", _certificate.ExportCertificatePem());
        _temp.Write("key", _certificate.GetECDsaPrivateKey()!.ExportPkcs8PrivateKeyPem());
        _security = Options().Open(NullLogger.Instance);
    }

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    public void Dispose()
    {
        _security.Dispose();
        _certificate.Dispose();
        _authority.Dispose();
        _temp.Dispose();
        _log.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Read_OfAnySize_BringsTheBytes(bool withToken)
    {
        AccessToken? token = withToken ? AccessToken.FromText("secret") : null;
        await using var port = new DataPort(new TcpDataListenerOptions { Security = _security, Token = token, PlainPeers = withToken ? PlainPeers.None : PlainPeers.All });
        using var memory = new TestMemory(port.Registry, 24 << 20, TestMemory.OfTarget);
        using TcpReadLane lane = DataPort.Open(Target(port, token));
        foreach (int lengthBytes in (int[])[1, 63, 4096, 16 << 10, (16 << 10) + 1, 1 << 20, 8 << 20, 20 << 20])
        {
            byte[] there = Read(lane, memory, 1, lengthBytes);
            Assert.True(there.AsSpan().SequenceEqual(memory.Bytes(1, lengthBytes)), $"{lengthBytes} bytes");
        }
    }

    [Fact]
    public async Task Read_ManySmallOnesAhead_ComeInOrder()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Security = _security });
        using var memory = new TestMemory(port.Registry, 1 << 20, TestMemory.OfTarget);
        using TcpReadLane lane = DataPort.Open(Target(port));
        byte[] there = GC.AllocateArray<byte>(32 * 1000, pinned: true);
        for (int round = 0; round < 50; round++)
        {
            for (int i = 0; i < 32; i++)
            {
                lane.Submit(new ReadRequest(memory.Address + (ulong)(i * 1777 + round), Marshal.UnsafeAddrOfPinnedArrayElement(there, i * 1000), 1000, i));
            }
            for (int i = 0; i < 32; i++)
            {
                Assert.Equal(new ReadCompletion(i, ReadStatus.Done), lane.Wait(null));
                Assert.True(there.AsSpan(i * 1000, 1000).SequenceEqual(memory.Bytes(i * 1777 + round, 1000)));
            }
        }
    }

    [Fact]
    public async Task Read_OutsideTheRange_IsRefused()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Security = _security });
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);
        using TcpReadLane lane = DataPort.Open(Target(port));
        byte[] there = GC.AllocateArray<byte>(4097, pinned: true);
        lane.Submit(new ReadRequest(memory.Address, Marshal.UnsafeAddrOfPinnedArrayElement(there, 0), there.Length, 0));
        Assert.Equal(ReadStatus.Refused, lane.Wait(null).Status);
    }

    // A touch of pages that are gone would end this process.
    [Fact]
    public async Task Read_OfAFileThatWasCutShort_EndsTheConnection()
    {
        string path = _temp.Write("file", new byte[1 << 20]);
        await using var port = new DataPort(new TcpDataListenerOptions { Security = _security });
        using var buffer = Checkpoints.MemoryBuffer.MapFile(path);
        port.Registry.Register(buffer, (ulong)buffer.Address, 1 << 20);
        using (FileStream file = File.OpenWrite(path))
        {
            file.SetLength(4096);
        }
        using TcpReadLane lane = DataPort.Open(Target(port));
        byte[] there = GC.AllocateArray<byte>(8192, pinned: true);
        lane.Submit(new ReadRequest((ulong)buffer.Address, Marshal.UnsafeAddrOfPinnedArrayElement(there, 0), there.Length, 0));
        Assert.Equal(ReadStatus.Broken, lane.Wait(null).Status);
    }

    [Fact]
    public async Task Client_ThatSpeaksNoTls_GetsNothingAndIsWrittenDown()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Security = _security, Audit = new AuditLog(_log) });
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);

        Assert.Empty(await port.ExchangeAsync(DataPort.Header(4096, memory.Address, DataHeader.Read | DataHeader.Acknowledged), halfClose: false));

        await TcpDataListenerHostileTests.Until(() => _log.Of(AuditLog.Category).Length == 1);
        string line = Assert.Single(_log.Of(AuditLog.Category));
        Assert.StartsWith("refuse where=data peer=127.0.0.1:", line, StringComparison.Ordinal);
        Assert.Contains("it speaks no TLS", line, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Client_ThatSpeaksTls12_IsRefused()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Security = _security, Audit = new AuditLog(_log) });
        using var client = new TcpClient();
        await client.ConnectAsync(port.EndPoint, Cancel);
        await using var stream = new SslStream(client.GetStream());
        SslClientAuthenticationOptions old = new TlsClientOptions { CaFile = _temp["authority"] }.CreateOptions("127.0.0.1");
        old.EnabledSslProtocols = SslProtocols.Tls12;
        await Assert.ThrowsAnyAsync<Exception>(() => stream.AuthenticateAsClientAsync(old, Cancel));
        await TcpDataListenerHostileTests.Until(() => _log.Of(AuditLog.Category).Length == 1);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(100)]
    public async Task Client_ThatBeginsTlsAndGoesNoFurther_IsCut(int bytes)
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Security = _security, TlsTimeout = s_short });
        byte[] hello = new byte[bytes];
        (bytes == 0 ? [] : (byte[])[0x16, 3, 1, 2, 0]).AsSpan(0, Math.Min(bytes, 5)).CopyTo(hello);
        Assert.Empty(await port.ExchangeAsync(hello, halfClose: false));
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 0);
    }

    [Fact]
    public async Task Client_ThatTakesNothing_IsCut()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Security = _security, StallTimeout = s_short });
        using var memory = new TestMemory(port.Registry, 64 << 20, TestMemory.OfTarget);
        using var client = new TcpClient();
        await client.ConnectAsync(port.EndPoint, Cancel);
        await using SslStream stream = await SecureAsync(client);
        await stream.WriteAsync(DataPort.Header(64 << 20, memory.Address, OurRead), Cancel);
        await stream.FlushAsync(Cancel);
        await TcpDataListenerHostileTests.Until(() => port.Listener.Snapshot() is [{ IsAnswering: true }]);
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 0);
    }

    [Fact]
    public async Task Clients_ThatWaitForTls_GiveWayToOthers()
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Security = _security, Limits = new ConnectionLimits(2, 2) });
        using var memory = new TestMemory(port.Registry, 4096, TestMemory.OfTarget);
        using RawClient one = await RawClient.ConnectAsync(port.EndPoint);
        using RawClient two = await RawClient.ConnectAsync(port.EndPoint);
        await TcpDataListenerHostileTests.Until(() => port.Listener.ConnectionCount == 2);
        using TcpReadLane lane = DataPort.Open(Target(port));
        Assert.Equal(memory.Bytes(0, 4096), Read(lane, memory, 0, 4096));
    }

    [Theory]
    [InlineData("close", nameof(ReadStatus.Broken))]
    [InlineData("garbage", nameof(ReadStatus.Garbled))]
    [InlineData("silence", nameof(ReadStatus.Stalled))]
    public async Task Wait_OwnerThatEndsInTheMiddle_IsTold(string how, string expected)
    {
        await using var port = new ScriptedPort(async (stream, _, token) =>
        {
            await using var secured = new SslStream(stream, leaveInnerStreamOpen: true);
            await secured.AuthenticateAsServerAsync(new SslServerAuthenticationOptions { ServerCertificate = _certificate, EnabledSslProtocols = SslProtocols.Tls13 }, token);
            await secured.ReadExactlyAsync(new byte[DataHeader.Size], token);
            await secured.WriteAsync(DataPort.Status(DataHeader.StatusOk, DataHeader.LineStatusSize), token);
            await secured.WriteAsync(new byte[500], token);
            if (how == "garbage")
            {
                await stream.WriteAsync((byte[])[0x17, 3, 3, 0, 32, .. new byte[32]], token);
            }
            if (how != "close")
            {
                await Task.Delay(Timeout.Infinite, token);
            }
        });
        ReadStatus status = await Task.Run(() =>
        {
            using TcpReadLane lane = DataPort.Open(Secured(DataPort.Target(port.EndPoint, 2, isOurs: true, null, TimeSpan.FromSeconds(1))));
            byte[] there = GC.AllocateArray<byte>(1000, pinned: true);
            lane.Submit(new ReadRequest(0x1000, Marshal.UnsafeAddrOfPinnedArrayElement(there, 0), there.Length, 0));
            return lane.Wait(null).Status;
        }, Cancel);
        Assert.Equal(expected, status.ToString());
    }

    [Fact]
    public async Task Connect_ToWhomeverItShouldNotTrust_Fails()
    {
        using var stranger = new TestCertificates("Another authority");
        string other = _temp.Write("stranger", stranger.Authority.ExportCertificatePem());
        await using var port = new DataPort(new TcpDataListenerOptions { Security = _security });
        TcpLaneTarget target = Target(port);
        foreach (TcpLaneTarget wrong in (TcpLaneTarget[])[target with { Tls = new TlsClientOptions { CaFile = other } }, target with { Tls = new TlsClientOptions() }, target with { TlsHost = "127.0.0.2" }])
        {
            var failure = Assert.Throws<CheckpointEngineException>(() => DataPort.Open(wrong));
            Assert.Equal(CheckpointError.Refused, failure.Error);
            Assert.Contains("--ca-file", failure.Message, StringComparison.Ordinal);
        }
        await using var plain = new DataPort();
        Assert.True(Assert.Throws<CheckpointEngineException>(() => DataPort.Open(Secured(DataPort.Target(plain.EndPoint, 2, true)))).Error is CheckpointError.Refused or CheckpointError.Unreachable);
    }

    [Fact]
    public async Task Connect_ToAnOwnerThatIsSilentOrDrips_TimesOut()
    {
        foreach (bool drips in (bool[])[false, true])
        {
            await using var port = new ScriptedPort(async (stream, _, token) =>
            {
                for (int i = 0; ; i++)
                {
                    await Task.Delay(drips ? 100 : Timeout.Infinite, token);
                    await stream.WriteAsync(new byte[] { i switch { 0 => 0x16, 1 or 2 => 3, 3 => 0x3f, _ => 0 } }, token);
                }
            });
            var failure = await Task.Run(() => Assert.Throws<CheckpointEngineException>(() => DataPort.Open(Secured(DataPort.Target(port.EndPoint, 2, true, null, s_short)))), Cancel);
            Assert.Equal(CheckpointError.Timeout, failure.Error);
        }
    }

    [Fact]
    public async Task Abort_WhileTlsBegins_EndsIt()
    {
        var begun = new TaskCompletionSource();
        await using var port = new ScriptedPort(async (stream, _, token) =>
        {
            await stream.ReadExactlyAsync(new byte[1], token);
            begun.SetResult();
            await Task.Delay(Timeout.Infinite, token);
        });
        using var lane = new TcpReadLane(Secured(DataPort.Target(port.EndPoint, 2, true, null, TimeSpan.FromMinutes(5))));
        Task<CheckpointEngineException> connect = Task.Run(() => Assert.Throws<CheckpointEngineException>(lane.Connect), Cancel);
        await begun.Task;
        lane.Abort();
        Assert.Contains("aborted", (await connect.WaitAsync(TimeSpan.FromSeconds(20), Cancel)).Message, StringComparison.Ordinal);
    }

    private TlsServerOptions Options() => new() { CertificateFile = _temp["cert"], KeyFile = _temp["key"] };

    private TcpLaneTarget Target(DataPort port, AccessToken? token = null) => Secured(DataPort.Target(port.EndPoint, 2, isOurs: true, token));

    private TcpLaneTarget Secured(TcpLaneTarget target) => target with { Tls = new TlsClientOptions { CaFile = _temp["authority"] }, TlsHost = "127.0.0.1" };

    private async Task<SslStream> SecureAsync(TcpClient client)
    {
        var stream = new SslStream(client.GetStream());
        await stream.AuthenticateAsClientAsync(new TlsClientOptions { CaFile = _temp["authority"] }.CreateOptions("127.0.0.1"), Cancel);
        return stream;
    }

    private static byte[] Read(TcpReadLane lane, TestMemory memory, int offset, int lengthBytes)
    {
        byte[] there = GC.AllocateArray<byte>(lengthBytes, pinned: true);
        lane.Submit(new ReadRequest(memory.Address + (ulong)offset, Marshal.UnsafeAddrOfPinnedArrayElement(there, 0), lengthBytes, 0));
        Assert.Equal(ReadStatus.Done, lane.Wait(null).Status);
        return there;
    }
}
