using System.Net.Http.Json;
using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Whole processes: holders that die or stop, joins that are killed, versions that follow each other.</summary>
public sealed class TrustTests
{
    private const int Bytes = 64 << 20;

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(Engine.SigKill)]
    [InlineData(Engine.SigStop)]
    public async Task Join_OneOfTwoHoldersIsLost_GoesOnWithTheOther(int signal)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        await using Holder first = await Holder.ServeAsync(temp["model"]);
        await using Holder second = await Holder.ServeAsync(temp["model"]);
        await using Engine join = Engine.Start("join", "--metas-url", first.MetasUrl, "--metas-url", second.MetasUrl, "--transport", "tcp", "--repeat", "200",
            "--require-verify", "--to", "dir:" + temp["copy"]);
        await InTransferAsync(join);

        first.Engine.Signal(signal);

        Outcome outcome = (await join.EndAsync()).Succeeded();
        Assert.Contains($"went on without rank 0 at {first.P2pStoreAddress}", outcome.Errors, StringComparison.Ordinal);
        ServeAndJoinTests.AssertSame(temp["model"], temp["copy"]);
    }

    [Fact]
    public async Task Join_OneOfTwoUrlsIsOfNobody_TakesTheOther()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);

        Outcome outcome = (await Engine.RunAsync("join", "--metas-url", "unix:" + temp["nobody"] + ":/v1/metas", "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded();

        Assert.Contains(temp["nobody"], outcome.Errors, StringComparison.Ordinal);
        ServeAndJoinTests.AssertSame(temp["model"], temp["copy"]);
    }

    [Fact]
    public async Task Join_KilledAndStartedAgain_TakesWhatItHadVerified()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        await using Engine join = Engine.Start("join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--repeat", "1000000", "--to", "dir:" + temp["copy"]);
        await InTransferAsync(join);

        join.Signal(Engine.SigKill);
        await join.EndAsync();
        Outcome outcome = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--to", "dir:" + temp["copy"], "--json")).Succeeded();

        using JsonDocument report = JsonDocument.Parse(outcome.Output);
        Assert.True(report.RootElement.GetProperty("verified").GetBoolean());
        Assert.True(report.RootElement.GetProperty("reused_bytes").GetInt64() > 0);
        ServeAndJoinTests.AssertSame(temp["model"], temp["copy"]);
        Assert.Equal(["copy", "model"], temp.Names);
    }

    [Fact]
    public async Task Join_Follow_HoldsEveryVersionAndReadsWhatHasChanged()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["one"]);
        SmallCheckpoint.WriteSharded(temp["two"]);
        string shard = Path.Combine(temp["two"], "model-00002-of-00002.safetensors");
        byte[] bytes = await File.ReadAllBytesAsync(shard, Cancel);
        bytes[^1] ^= 1;
        await File.WriteAllBytesAsync(shard, bytes, Cancel);
        await using Holder trainer = await Holder.ServeAsync(temp["one"], "--allow-path", temp.Path);
        await using Holder follower = await Holder.StartAsync("join", "--metas-url", trainer.MetasUrl, "--transport", "tcp", "--serve", "--follow", "--listen", "http://127.0.0.1:0", "--json");

        using var http = new HttpClient();
        var files = new Uri(trainer.Http + "/v1/checkpoints/m/files");
        Assert.Equal(System.Net.HttpStatusCode.Conflict, (await http.PostAsJsonAsync(files, new { files = new[] { temp["two"] } }, Cancel)).StatusCode);
        (await http.PostAsJsonAsync(files, new { files = new[] { temp["two"] }, replace = true }, Cancel)).EnsureSuccessStatusCode();

        string line = await follower.Engine.WaitForLineAsync(line => line.Contains("\"reused_bytes\":", StringComparison.Ordinal));
        using JsonDocument report = JsonDocument.Parse(line);
        Assert.True(report.RootElement.GetProperty("verified").GetBoolean());
        Assert.InRange(report.RootElement.GetProperty("transports").GetProperty("tcp").GetInt64(), 1, report.RootElement.GetProperty("bytes").GetInt64() - 1);
        (await Engine.RunAsync("join", "--metas-url", follower.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded();
        ServeAndJoinTests.AssertSame(temp["two"], temp["copy"]);
        follower.Engine.Signal(Engine.SigTerm);
        (await follower.Engine.EndAsync()).Succeeded();
    }

    [Fact]
    public async Task Join_FollowWhileTheHolderIsGone_KeepsWhatItHasAndTakesItsSuccessor()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["one"]);
        SmallCheckpoint.WriteSingle(temp["two"], 1 << 20);
        string listen = "unix:" + temp["ce.sock"];
        Holder first = await Holder.StartAsync("serve", "--checkpoint", "m=" + temp["one"], "--listen", listen, "--json");
        await using Holder follower = await Holder.StartAsync("join", "--metas-url", first.MetasUrl, "--serve", "--follow", "--listen", "http://127.0.0.1:0", "--json");
        first.Engine.Signal(Engine.SigKill);
        await first.DisposeAsync();
        (await Engine.RunAsync("join", "--metas-url", follower.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded();
        ServeAndJoinTests.AssertSame(temp["one"], temp["copy"]);

        File.Delete(temp["ce.sock"]);
        await using Holder second = await Holder.StartAsync("serve", "--checkpoint", "m=" + temp["two"], "--listen", listen, "--json");

        await follower.Engine.WaitForLineAsync(line => line.Contains("\"tensors\":1,", StringComparison.Ordinal));
        (await Engine.RunAsync("join", "--metas-url", follower.MetasUrl, "--to", "dir:" + temp["next"])).Succeeded();
        ServeAndJoinTests.AssertSame(temp["two"], temp["next"]);
    }

    [Theory]
    [InlineData("--follow", "--load-metas-file", "x")]
    [InlineData("--follow", "--metas-url", "http://a/1", "--metas-url", "http://b/1")]
    [InlineData("--follow", "--metas-url", "http://a/1", "--repeat", "2")]
    public async Task Join_FollowOfWhatCannotBeFollowed_IsBadUsage(params string[] arguments)
        => Assert.Equal(2, (await Engine.RunAsync(["join", .. arguments])).ExitCode);

    private static Task<string> InTransferAsync(Engine join)
        => join.WaitForLineAsync(line => line.StartsWith("transfer:", StringComparison.Ordinal) || line.StartsWith("verify:", StringComparison.Ordinal));
}
