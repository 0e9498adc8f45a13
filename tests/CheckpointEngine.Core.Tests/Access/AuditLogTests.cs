using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

/// <summary>What is written down of who came.</summary>
public sealed class AuditLogTests : IDisposable
{
    private readonly RecordedLog _log = new();

    public void Dispose() => _log.Dispose();

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    private string[] Lines => _log.Of(AuditLog.Category);

    [Fact]
    public async Task Holder_FromRegistrationToTheEnd_LeavesOneLineForEach()
    {
        using var files = SmallCheckpoint.OfManySizes();
        long bytes;
        await using (var holder = new ParameterServer(new ParameterServerOptions { LoggerFactory = _log }))
        {
            await holder.StartAsync(Cancel);
            bytes = (await holder.RegisterAsync("model", [files.Path], Cancel)).DataBytes;
            await using var joiner = new ParameterServer(new ParameterServerOptions());
            await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp }, null, Cancel);
            await TcpDataListenerHostileTests.Until(() => Lines.Length == 3);
            await holder.RegisterAsync("model", [files.Path], null, new RegistrationOptions { Replace = true }, Cancel);
            await holder.UnregisterAsync("model", Cancel);
        }
        string[] lines = Lines;
        Assert.StartsWith("register checkpoint='model' generation=", lines[0], StringComparison.Ordinal);
        Assert.EndsWith($"bytes={bytes} source=files", lines[0], StringComparison.Ordinal);
        Assert.Matches($"^lease-taken peer=127\\.0\\.0\\.1:[0-9]+ checkpoint='model' generation=[0-9]+ bytes={bytes}$", lines[1]);
        Assert.Matches("^lease-ended peer=127\\.0\\.0\\.1:[0-9]+ checkpoint='model' generation=[0-9]+ how=released seconds=[0-9.E-]+$", lines[2]);
        Assert.StartsWith("register ", lines[3], StringComparison.Ordinal);
        Assert.StartsWith("supersede checkpoint='model' generation=", lines[4], StringComparison.Ordinal);
        Assert.StartsWith("unregister checkpoint='model' generation=", lines[5], StringComparison.Ordinal);
        Assert.Equal(6, lines.Length);
    }

    [Fact]
    public async Task Update_OfTensors_LeavesItsBeginAndItsCommit()
    {
        using var tensors = new CallerTensors();
        byte[] content = GC.AllocateArray<byte>(64, pinned: true);
        unsafe
        {
            fixed (byte* first = content)
            {
                tensors.Add("w", Checkpoints.TensorDtype.U8, [64], (nint)first);
            }
        }
        await using var holder = new ParameterServer(new ParameterServerOptions { LoggerFactory = _log });
        holder.RegisterTensors("live", tensors);
        await holder.BeginUpdateAsync("live");
        holder.CommitUpdate("live");
        Assert.Collection(Lines,
            line => Assert.EndsWith("source=tensors", line, StringComparison.Ordinal),
            line => Assert.StartsWith("update-begin checkpoint='live' generation=", line, StringComparison.Ordinal),
            line => Assert.StartsWith("update-commit checkpoint='live' generation=", line, StringComparison.Ordinal));
    }

    [Fact]
    public async Task Attach_ToAHolder_IsWrittenDownOnceForAllItsMemory()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using var holder = new ParameterServer(new ParameterServerOptions { LoggerFactory = _log, Hold = HoldMode.Memfd });
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Local }, null, Cancel);
        string given = Assert.Single(Lines, line => line.StartsWith("memory-given ", StringComparison.Ordinal));
        Assert.Matches($"^memory-given peer=process {Environment.ProcessId} of user [0-9]+ checkpoint='model' generation=[0-9]+ bytes=[0-9]+ how=attach$", given);
    }

    [Fact]
    public async Task Strangers_AreWrittenDownWithTheirReason()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using var holder = new ParameterServer(new ParameterServerOptions { LoggerFactory = _log, Token = AccessToken.FromText("correct horse") });
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions { Token = AccessToken.FromText("battery staple") });
        await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp }, null, Cancel));
        await TcpDataListenerHostileTests.Until(() => Lines.Any(line => line.StartsWith("refuse where=peers peer=127.0.0.1:", StringComparison.Ordinal)));

        Assert.True(EndpointName.TryParse(holder.P2pStoreAddress, out EndpointName name));
        SegmentDescriptor told = await HandshakeClient.FetchDescriptorAsync(name, default, cancellationToken: Cancel);
        using RawClient plain = await RawClient.ConnectAsync(new System.Net.IPEndPoint(System.Net.IPAddress.Loopback, told.TcpDataPort));
        await plain.SendAsync(DataPort.Header(16, 4096, 0));
        await plain.ReadToEndAsync();
        await TcpDataListenerHostileTests.Until(() => Lines.Any(line => line.StartsWith("refuse where=data peer=127.0.0.1:", StringComparison.Ordinal)));
        Assert.DoesNotContain(Lines, line => line.Contains("battery", StringComparison.Ordinal) || line.Contains("horse", StringComparison.Ordinal));
    }

    [Fact]
    public void Refusals_WithTextsOfStrangers_AreOneShortCleanLine()
    {
        new AuditLog(_log).Refused("http", "10.0.0.1:1", "404 GET /v1/\r\n2026-01-01 register checkpoint='forged'" + new string('x', 10_000));
        string line = Assert.Single(Lines);
        Assert.DoesNotContain('\n', line);
        Assert.DoesNotContain('\r', line);
        Assert.InRange(line.Length, 1, 400);
    }

    [Fact]
    public void Refusals_InAFlood_AreCountedNotWritten()
    {
        var audit = new AuditLog(_log);
        for (int i = 0; i < 100_000; i++)
        {
            audit.Refused("data", "10.0.0.1:1", "no");
        }
        Assert.InRange(Lines.Length, 50, 5000);
    }
}
