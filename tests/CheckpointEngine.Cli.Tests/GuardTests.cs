using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Http.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Whole processes: tokens and certificates that are exchanged while they run, TLS of the peer service, limits, the audit log.</summary>
public sealed class GuardTests
{
    private const int SigHup = 1;

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Serve_TokenFileChanges_OldTokensGoWithoutARestart(bool bySignal)
    {
        Assert.SkipWhen(Engine.IsIgnored(SigHup), "SIGHUP is ignored here, and by those that are started from here");
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        File.WriteAllText(temp["old"], "old token\n");
        File.WriteAllText(temp["new"], "new token\n");
        File.Copy(temp["old"], temp["token"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--token-file", temp["token"]);
        (await JoinAsync("old")).Succeeded();
        Assert.Equal(1, (await JoinAsync("new")).ExitCode);

        await ChangeAsync("new token\nold token\n", "new");
        (await JoinAsync("old")).Succeeded();

        File.WriteAllText(temp["token"], "new token\n");
        if (bySignal)
        {
            holder.Engine.Signal(SigHup);
        }
        await UntilAsync(async () => (await JoinAsync("old")).ExitCode == 1);
        (await JoinAsync("new")).Succeeded();

        File.WriteAllText(temp["token"], "");       // half of a write: the token that was read before stays
        holder.Engine.Signal(SigHup);
        (await JoinAsync("new")).Succeeded();
        holder.Engine.Signal(Engine.SigTerm);
        Outcome outcome = (await holder.Engine.EndAsync()).Succeeded();
        Assert.Contains("holds no token that can be used", outcome.Errors, StringComparison.Ordinal);
        Assert.DoesNotContain("new token", outcome.Errors, StringComparison.Ordinal);

        Task<Outcome> JoinAsync(string token)
            => Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "null", "--transport", "tcp", "--require-verify", "--token-file", temp[token]);

        async Task ChangeAsync(string text, string isTaken)
        {
            File.WriteAllText(temp["token"], text);
            if (bySignal)
            {
                holder.Engine.Signal(SigHup);
            }
            await UntilAsync(async () => (await JoinAsync(isTaken)).ExitCode == 0);
        }
    }

    [Fact]
    public async Task Serve_CertificateChanges_NewConnectionsGetIt()
    {
        Assert.SkipWhen(Engine.IsIgnored(SigHup), "SIGHUP is ignored here, and by those that are started from here");
        using var temp = new TempDirectory();
        using var first = new TestCertificates("first");
        using var second = new TestCertificates("second");
        SmallCheckpoint.WriteSharded(temp["model"]);
        Write(first);
        File.WriteAllText(temp["first"], first.Authority.ExportCertificatePem());
        File.WriteAllText(temp["second"], second.Authority.ExportCertificatePem());
        await using Holder holder = await Holder.StartAsync("serve", "--checkpoint", "m=" + temp["model"], "--listen", "https://127.0.0.1:0", "--json",
            "--tls-cert", temp["cert"], "--tls-key", temp["key"]);
        (await MetasAsync("first")).Succeeded();
        Assert.Equal(1, (await MetasAsync("second")).ExitCode);

        Write(second);
        holder.Engine.Signal(SigHup);

        await UntilAsync(async () => (await MetasAsync("second")).ExitCode == 0);
        Assert.Equal(1, (await MetasAsync("first")).ExitCode);

        Task<Outcome> MetasAsync(string authority) => Engine.RunAsync("metas", "--metas-url", holder.MetasUrl, "--ca-file", temp[authority]);

        void Write(TestCertificates authority)
        {
            using X509Certificate2 certificate = authority.Issue(isClient: false);
            File.WriteAllText(temp["cert"], certificate.ExportCertificatePem());
            File.WriteAllText(temp["key"], certificate.GetECDsaPrivateKey()!.ExportPkcs8PrivateKeyPem());
        }
    }

    [Fact]
    public async Task Join_FromAPeerServiceWithTls_TrustsItsAuthorityAlone()
    {
        using var temp = new TempDirectory();
        using var ours = new TestCertificates("ours");
        using var theirs = new TestCertificates("theirs");
        SmallCheckpoint.WriteSharded(temp["model"]);
        using (X509Certificate2 certificate = ours.Issue(isClient: false))
        {
            File.WriteAllText(temp["cert"], certificate.ExportCertificatePem());
            File.WriteAllText(temp["key"], certificate.GetECDsaPrivateKey()!.ExportPkcs8PrivateKeyPem());
        }
        File.WriteAllText(temp["ours"], ours.Authority.ExportCertificatePem());
        File.WriteAllText(temp["theirs"], theirs.Authority.ExportCertificatePem());
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--tls-peers", "--tls-cert", temp["cert"], "--tls-key", temp["key"], "--audit-log", temp["audit"]);
        await using Holder plain = await Holder.ServeAsync(temp["model"]);

        (await JoinAsync(holder, "ours")).Succeeded();
        Assert.Contains("--ca-file", (await JoinAsync(holder, "theirs")).FailedWithOneLine(), StringComparison.Ordinal);
        Assert.Contains("--require-tls", (await JoinAsync(plain, "ours")).FailedWithOneLine(), StringComparison.Ordinal);

        holder.Engine.Signal(Engine.SigTerm);
        (await holder.Engine.EndAsync()).Succeeded();
        string[] audit = File.ReadAllLines(temp["audit"]);
        Assert.Matches("^[0-9]{4}-[0-9-]+T[0-9:.]+Z register checkpoint='m' generation=", audit[0]);
        Assert.Single(audit, line => line.Contains(" lease-taken peer=127.0.0.1:", StringComparison.Ordinal));
        Assert.Single(audit, line => line.Contains(" lease-ended ", StringComparison.Ordinal) && line.Contains("how=released", StringComparison.Ordinal));

        Task<Outcome> JoinAsync(Holder from, string authority)
            => Engine.RunAsync("join", "--metas-url", from.MetasUrl, "--to", "null", "--transport", "tcp", "--require-verify", "--require-tls", "--ca-file", temp[authority]);
    }

    [Theory]
    [InlineData("--max-connections", "http")]
    [InlineData("--max-connections", "http=0")]
    [InlineData("--max-connections", "http=1/0")]
    [InlineData("--max-connections", "http=1/2/3")]
    [InlineData("--max-connections", "ftp=1")]
    [InlineData("--max-requests", "data=1")]
    [InlineData("--max-requests", "http=-1")]
    [InlineData("--max-leases", "0")]
    [InlineData("--tls-peers", "")]
    public async Task Serve_WithLimitsThatAreNone_IsAUsageError(string option, string value)
    {
        Outcome outcome = await Engine.RunAsync(["serve", "--checkpoint", "m=/nowhere", option, .. value.Length == 0 ? [] : (string[])[value]]);
        Assert.Equal(2, outcome.ExitCode);
        Assert.Contains(option, outcome.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Serve_WithLimits_KeepsThem()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--max-connections", "http=64/32,peers=4", "--max-requests", "http=2,peers=0", "--max-leases", "1", "--max-in-flight-kib", "256");
        (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "null", "--transport", "tcp", "--require-verify")).Succeeded();
        using var client = new HttpClient();
        HttpResponseMessage[] replies = await Task.WhenAll(Enumerable.Range(0, 20).Select(_ => client.GetAsync(new Uri(holder.MetasUrl))));
        Assert.Contains(replies, reply => reply.StatusCode == System.Net.HttpStatusCode.TooManyRequests);
    }

    [Fact]
    public async Task Serve_WithoutFilesToRead_GoesOnAfterSighup()
    {
        Assert.SkipWhen(Engine.IsIgnored(SigHup), "SIGHUP is ignored here, and by those that are started from here");
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        holder.Engine.Signal(SigHup);
        (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "null", "--require-verify")).Succeeded();
        holder.Engine.Signal(Engine.SigTerm);
        (await holder.Engine.EndAsync()).Succeeded();
    }

    private static async Task UntilAsync(Func<Task<bool>> condition)
    {
        using var patience = new CancellationTokenSource(Engine.Patience);
        while (!await condition())
        {
            patience.Token.ThrowIfCancellationRequested();
        }
    }
}
