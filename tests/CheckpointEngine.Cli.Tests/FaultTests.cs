using System.Text;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>What a user sees when something goes wrong: one line, a status, and nothing left behind.</summary>
public sealed class FaultTests
{
    // Rounds without end over a checkpoint of this size: whatever happens to the join happens in its middle.
    private const int BusyBytes = 32 << 20;

    [Fact]
    public async Task Join_HolderKilled_NamesThePeerAndLeavesNothing()
    {
        using var temp = new TempDirectory();
        await using Holder holder = await ServeBusyAsync(temp);
        await using Engine join = StartEndlessJoin(holder, "--to", "dir:" + temp["copy"]);
        await InTransferAsync(join);

        holder.Engine.Signal(Engine.SigKill);

        Assert.Contains(holder.P2pStoreAddress, (await join.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);
        Assert.Equal(["model"], temp.Names);
    }

    [Fact]
    public async Task Join_HolderStalls_TimesOutAndNamesThePeer()
    {
        using var temp = new TempDirectory();
        await using Holder holder = await ServeBusyAsync(temp);
        await using Engine join = StartEndlessJoin(holder, "--to", "dir:" + temp["copy"], "--stall-timeout", "1");
        await InTransferAsync(join);

        holder.Engine.Signal(Engine.SigStop);

        Assert.Contains(holder.P2pStoreAddress, (await join.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);
        Assert.Equal(["model"], temp.Names);
    }

    [Fact]
    public async Task Join_HolderStalledFromTheStart_EndsByTimeout()
    {
        using var temp = new TempDirectory();
        await using Holder holder = await ServeBusyAsync(temp);
        holder.Engine.Signal(Engine.SigStop);
        string line = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--timeout", "1")).FailedWithOneLine();
        Assert.Contains(holder.Http, line, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_TimeoutInTransfer_EndsWithOneLine()
    {
        using var temp = new TempDirectory();
        await using Holder holder = await ServeBusyAsync(temp);
        await using Engine join = StartEndlessJoin(holder, "--to", "dir:" + temp["copy"], "--timeout", "3");
        Assert.Contains("--timeout", (await join.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);
        Assert.Equal(["model"], temp.Names);
    }

    [Theory]
    [InlineData(Engine.SigInt, 130)]
    [InlineData(Engine.SigTerm, 143)]
    public async Task Join_Interrupted_ExitsWithTheSignalAndLeavesNothing(int signal, int exitCode)
    {
        Assert.SkipWhen(Engine.IsIgnored(signal), $"signal {signal} is ignored by these tests (nohup, or '&' in a script), and so by what they start");
        using var temp = new TempDirectory();
        await using Holder holder = await ServeBusyAsync(temp);
        await using Engine join = StartEndlessJoin(holder, "--to", "dir:" + temp["copy"]);
        await InTransferAsync(join);

        join.Signal(signal);

        Outcome end = await join.EndAsync();
        Assert.Equal(exitCode, end.ExitCode);
        Assert.Single(end.ErrorLines);
        Assert.Equal(["model"], temp.Names);
    }

    [Fact]
    public async Task Serve_TerminatedWhileRead_StillExits0()
    {
        using var temp = new TempDirectory();
        await using Holder holder = await ServeBusyAsync(temp, "--drain-timeout", "0.5");
        await using Engine join = StartEndlessJoin(holder, "--to", "null");
        await InTransferAsync(join);

        holder.Engine.Signal(Engine.SigTerm);

        (await join.EndAsync()).FailedWithOneLine();
        (await holder.Engine.EndAsync()).Succeeded();
    }

    [Fact]
    public async Task Join_OverExisting_KeepsItWhenItFails()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["old"]);
        await using Holder holder = await ServeBusyAsync(temp);
        await using Engine join = StartEndlessJoin(holder, "--to", "dir:" + temp["old"]);
        await InTransferAsync(join);

        holder.Engine.Signal(Engine.SigKill);

        (await join.EndAsync()).FailedWithOneLine();
        using var fresh = new TempDirectory();
        SmallCheckpoint.WriteSharded(fresh["old"]);
        ServeAndJoinTests.AssertSame(fresh["old"], temp["old"]);
        Assert.Equal(["model", "old"], temp.Names);
    }

    [Theory]
    [InlineData("other")]
    [InlineData(null)]
    public async Task Token_WrongOrMissing_IsRefusedWithOneLine(string? token)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        File.WriteAllText(temp["token"], "secret-of-the-house\n");
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--token-file", temp["token"], "--save-metas-file", temp["metas.json"]);
        var environment = new Dictionary<string, string>();
        if (token is not null)
        {
            environment["CHECKPOINT_ENGINE_TOKEN"] = token;
        }

        await using Engine overHttp = Engine.Start(environment, "join", "--metas-url", holder.MetasUrl, "--to", "null");
        Assert.Contains("token", (await overHttp.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);

        // Metas from elsewhere do not open the memory.
        await using Engine fromFile = Engine.Start(environment, "join", "--load-metas-file", temp["metas.json"], "--to", "null");
        Assert.Contains("token", (await fromFile.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);

        environment["CHECKPOINT_ENGINE_TOKEN"] = "secret-of-the-house";
        await using Engine right = Engine.Start(environment, "join", "--metas-url", holder.MetasUrl, "--to", "null");
        (await right.EndAsync()).Succeeded();
    }

    [Fact]
    public async Task Join_CheckpointUnknown_SaysSo()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        string line = (await Engine.RunAsync("join", "--metas-url", holder.Http + "/v1/checkpoints/nope/metas")).FailedWithOneLine();
        Assert.Contains("nope", line, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_NothingMatches_SaysSo()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        string line = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--include", "nope.*")).FailedWithOneLine();
        Assert.Contains("include", line, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("/proc/ce-copy")]
    [InlineData("{file}/copy")]
    [InlineData("{file}")]
    public async Task Join_DestinationNotWritable_SaysWhere(string place)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        File.WriteAllText(temp["file"], "");
        string path = place.Replace("{file}", temp["file"], StringComparison.Ordinal);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        string line = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "dir:" + path)).FailedWithOneLine();
        Assert.Contains(path, line, StringComparison.Ordinal);
        Assert.Equal(["file", "model"], temp.Names);
    }

    [Fact]
    public async Task Join_DiskFull_SaysSoAndLeavesNothing()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], 4 << 20);
        using SmallDisk? disk = SmallDisk.TryMount(temp["disk"], 1, out string? whyNot);
        Assert.SkipWhen(disk is null, whyNot ?? "");
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        string line = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "dir:" + Path.Combine(temp["disk"], "copy"))).FailedWithOneLine();
        Assert.Contains("copy", line, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(temp["disk"]));
    }

    [Theory]
    [InlineData("")]
    [InlineData("not metas at all")]
    [InlineData("{")]
    [InlineData("[]")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":\"many\"}}")]
    [InlineData("\u0080\u0004cos\nsystem\n(S'touch /tmp/owned'\ntR.")]
    [InlineData("\u0080\u0004\u0095")]
    public async Task MetasFile_Garbage_IsOneLineThatNamesMetas(string content)
    {
        using var temp = new TempDirectory();
        File.WriteAllBytes(temp["metas"], Encoding.Latin1.GetBytes(content));
        foreach (string command in new[] { "join", "metas", "plan" })
        {
            (await Engine.RunAsync(command, "--load-metas-file", temp["metas"])).FailedWithOneLine();
        }
    }

    [Fact]
    public async Task Serve_TruncatedShard_FailsBeforeTheReadyLine()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        using (FileStream shard = File.OpenWrite(Path.Combine(temp["model"], "model-00002-of-00002.safetensors")))
        {
            shard.SetLength(shard.Length - 1);
        }
        Outcome end = await Engine.RunAsync("serve", "--checkpoint", "m=" + temp["model"], "--listen", "http://127.0.0.1:0", "--json");
        Assert.Contains("model-00002-of-00002.safetensors", end.FailedWithOneLine(), StringComparison.Ordinal);
        Assert.Empty(end.Output);
    }

    [Fact]
    public async Task Serve_PortTaken_SaysWhich()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        string line = (await Engine.RunAsync("serve", "--checkpoint", "m=" + temp["model"], "--listen", holder.Http)).FailedWithOneLine();
        Assert.Contains(new Uri(holder.Http).Port.ToString(), line, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Serve_OpenToOthersWithoutToken_IsRefused()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        string line = (await Engine.RunAsync("serve", "--checkpoint", "m=" + temp["model"], "--listen", "http://0.0.0.0:0", "--address", "127.0.0.1")).FailedWithOneLine();
        Assert.Contains("--token-file", line, StringComparison.Ordinal);
    }

    private static Task<Holder> ServeBusyAsync(TempDirectory temp, params string[] more)
    {
        SmallCheckpoint.WriteSingle(temp["model"], BusyBytes);
        return Holder.ServeAsync(temp["model"], more);
    }

    private static Engine StartEndlessJoin(Holder holder, params string[] more)
        => Engine.Start(["join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--repeat", "1000000", "--retry-timeout", "0", .. more]);

    // A line of progress that tells bytes: between two rounds it may be that of the check.
    private static Task<string> InTransferAsync(Engine join)
        => join.WaitForLineAsync(line => line.StartsWith("transfer:", StringComparison.Ordinal) || line.StartsWith("verify:", StringComparison.Ordinal));
}
