using System.Security.Cryptography.X509Certificates;
using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Http.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Whole processes that let weights cross the network within TLS alone.</summary>
public sealed class EncryptTests : IDisposable
{
    private const int SigHup = 1;

    private readonly TempDirectory _temp = new();
    private readonly TestCertificates _ours = new("ours");
    private readonly TestCertificates _theirs = new("theirs");

    public EncryptTests()
    {
        File.WriteAllText(_temp["ours"], _ours.Authority.ExportCertificatePem());
        File.WriteAllText(_temp["theirs"], _theirs.Authority.ExportCertificatePem());
        Write(_ours);
    }

    private string[] Certificate => ["--tls-cert", _temp["cert"], "--tls-key", _temp["key"]];

    public void Dispose()
    {
        _temp.Dispose();
        _ours.Dispose();
        _theirs.Dispose();
    }

    [Fact]
    public async Task Join_FromAHolderThatEncrypts_TrustsItsAuthorityAloneAndWritesDownWho()
    {
        SmallCheckpoint.WriteSharded(_temp["model"]);
        File.WriteAllText(_temp["token"], "a secret\n");
        await using Holder holder = await Holder.ServeAsync(_temp["model"], ["--encrypt", "--token-file", _temp["token"], "--audit-log", _temp["audit"], .. Certificate]);
        await using Holder plain = await Holder.ServeAsync(_temp["model"], ["--tls-peers", "--token-file", _temp["token"], .. Certificate]);

        (await JoinAsync(holder, "ours", "--to", "dir:" + _temp["copy"])).Succeeded();
        ServeAndJoinTests.AssertSame(_temp["model"], _temp["copy"]);
        Assert.Contains("--ca-file", (await JoinAsync(holder, "theirs", "--to", "null")).FailedWithOneLine(), StringComparison.Ordinal);
        Assert.Contains("--encrypt", (await JoinAsync(plain, "ours", "--to", "null")).FailedWithOneLine(), StringComparison.Ordinal);

        Outcome plan = await Engine.RunAsync("plan", "--metas-url", holder.MetasUrl, "--token-file", _temp["token"], "--ca-file", _temp["ours"], "--encrypt", "--transport", "tcp", "--json");
        using (JsonDocument document = JsonDocument.Parse(plan.Succeeded().Output))
        {
            Assert.True(document.RootElement.GetProperty("owners")[0].GetProperty("encrypted").GetBoolean());
        }
        holder.Engine.Signal(Engine.SigTerm);
        (await holder.Engine.EndAsync()).Succeeded();
        Assert.Single(File.ReadAllLines(_temp["audit"]), line => line.Contains("how=released", StringComparison.Ordinal));

        Task<Outcome> JoinAsync(Holder from, string authority, params string[] more)
            => Engine.RunAsync(["join", "--metas-url", from.MetasUrl, "--encrypt", "--transport", "tcp", "--require-verify", "--token-file", _temp["token"], "--ca-file", _temp[authority], .. more]);
    }

    [Fact]
    public async Task Serve_CertificateChanges_NewLanesGetIt()
    {
        Assert.SkipWhen(Engine.IsIgnored(SigHup), "SIGHUP is ignored here, and by those that are started from here");
        SmallCheckpoint.WriteSharded(_temp["model"]);
        await using Holder holder = await Holder.ServeAsync(_temp["model"], ["--encrypt", .. Certificate]);
        (await JoinAsync("ours")).Succeeded();
        Assert.Equal(1, (await JoinAsync("theirs")).ExitCode);

        Write(_theirs);
        holder.Engine.Signal(SigHup);

        using var patience = new CancellationTokenSource(Engine.Patience);
        while ((await JoinAsync("theirs")).ExitCode != 0)
        {
            patience.Token.ThrowIfCancellationRequested();
        }
        Assert.Equal(1, (await JoinAsync("ours")).ExitCode);

        Task<Outcome> JoinAsync(string authority)
            => Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--encrypt", "--transport", "tcp", "--to", "null", "--ca-file", _temp[authority]);
    }

    [Fact]
    public async Task Join_HolderKilledInTheMiddle_NamesItAndLeavesNothing()
    {
        SmallCheckpoint.WriteSingle(_temp["model"], 32 << 20);
        await using Holder holder = await Holder.ServeAsync(_temp["model"], ["--encrypt", .. Certificate]);
        await using Engine join = Engine.Start("join", "--metas-url", holder.MetasUrl, "--encrypt", "--transport", "tcp", "--ca-file", _temp["ours"], "--repeat", "1000000", "--retry-timeout", "0", "--to", "dir:" + _temp["copy"]);
        await join.WaitForLineAsync(line => line.StartsWith("transfer:", StringComparison.Ordinal) || line.StartsWith("verify:", StringComparison.Ordinal));

        holder.Engine.Signal(Engine.SigKill);

        Assert.Contains(holder.P2pStoreAddress, (await join.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);
        Assert.False(Directory.Exists(_temp["copy"]));
    }

    [Fact]
    public async Task Join_TogetherWithOneThatServesEncrypted_ReadsFromIt()
    {
        SmallCheckpoint.WriteSharded(_temp["model"]);
        await using Holder holder = await Holder.ServeAsync(_temp["model"], ["--encrypt", .. Certificate]);
        await using Holder first = await Holder.StartAsync(["join", "--metas-url", holder.MetasUrl, "--serve", "--listen", "http://127.0.0.1:0", "--json", .. Relayed("--audit-log", _temp["audit"]), .. Certificate]);

        Outcome outcome = (await Engine.RunAsync(["join", "--metas-url", holder.MetasUrl, "--to", "dir:" + _temp["copy"], "--json", .. Relayed()])).Succeeded();

        using JsonDocument report = JsonDocument.Parse(outcome.Output);
        Assert.True(report.RootElement.GetProperty("relayed_bytes").GetInt64() > 0);
        Assert.Contains("offered to no other", outcome.Errors, StringComparison.Ordinal);
        ServeAndJoinTests.AssertSame(_temp["model"], _temp["copy"]);
        first.Engine.Signal(Engine.SigTerm);
        (await first.Engine.EndAsync()).Succeeded();
        Assert.Contains(File.ReadAllLines(_temp["audit"]), line => line.Contains(" relay-taken peer=127.0.0.1:", StringComparison.Ordinal));

        string[] Relayed(params string[] more) => ["--relay", "--encrypt", "--transport", "tcp", "--ca-file", _temp["ours"], .. more];
    }

    [Theory]
    [InlineData("--tls-cert", "serve", "--checkpoint", "m=/nowhere", "--encrypt")]
    [InlineData("--transport mooncake", "serve", "--checkpoint", "m=/nowhere", "--encrypt", "--tls-cert", "c", "--tls-key", "k", "--transport", "mooncake")]
    [InlineData("--transport rdma", "serve", "--checkpoint", "m=/nowhere", "--encrypt", "--tls-cert", "c", "--tls-key", "k", "--transport", "rdma")]
    [InlineData("--plain-peers", "serve", "--checkpoint", "m=/nowhere", "--encrypt", "--tls-cert", "c", "--tls-key", "k", "--plain-peers", "all")]
    [InlineData("--tls-cert", "join", "--metas-url", "http://127.0.0.1:1", "--encrypt", "--serve")]
    [InlineData("--serve or --relay", "join", "--metas-url", "http://127.0.0.1:1", "--encrypt", "--tls-cert", "c", "--tls-key", "k")]
    [InlineData("--tls-key", "join", "--metas-url", "http://127.0.0.1:1", "--relay", "--tls-cert", "c")]
    [InlineData("--transport mooncake", "join", "--metas-url", "http://127.0.0.1:1", "--encrypt", "--transport", "mooncake")]
    public async Task Command_WithWhatDoesNotGoTogether_IsAUsageError(string named, params string[] arguments)
    {
        Outcome outcome = await Engine.RunAsync(arguments);
        Assert.Equal(2, outcome.ExitCode);
        Assert.Contains(named, outcome.Errors, StringComparison.Ordinal);
    }

    private void Write(TestCertificates authority)
    {
        using X509Certificate2 certificate = authority.Issue(isClient: false);
        File.WriteAllText(_temp["cert"], certificate.ExportCertificatePem());
        File.WriteAllText(_temp["key"], certificate.GetECDsaPrivateKey()!.ExportPkcs8PrivateKeyPem());
    }
}
