using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Two processes and a checkpoint, when all goes well.</summary>
public sealed class ServeAndJoinTests
{
    [Theory]
    [InlineData("map")]
    [InlineData("memfd")]
    [InlineData("anon")]
    public async Task Join_ToDirectory_IsBitForBit(string hold)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--hold", hold);

        Outcome outcome = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded();

        Assert.Contains("every byte verified", outcome.Output, StringComparison.Ordinal);
        AssertSame(temp["model"], temp["copy"]);
        Assert.Equal(SmallCheckpoint.Config, File.ReadAllText(Path.Combine(temp["copy"], "config.json")));
        Assert.Equal(["copy", "model"], temp.Names);
    }

    [Fact]
    public async Task Join_ToMemoryAndServe_PassesItOnBitForBit()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder first = await Holder.ServeAsync(temp["model"]);
        await using Holder second = await Holder.StartAsync("join", "--metas-url", first.MetasUrl, "--checkpoint-name", "mine", "--serve", "--listen", "http://127.0.0.1:0", "--json");
        Assert.Equal("mine", second.Ready.GetProperty("checkpoints")[0].GetString());

        (await Engine.RunAsync("join", "--metas-url", second.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded();

        AssertSame(temp["model"], temp["copy"]);
        second.Engine.Signal(Engine.SigTerm);
        Outcome end = (await second.Engine.EndAsync()).Succeeded();
        string[] lines = end.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(2, lines.Length);          // the report, then the ready line
        Assert.Contains("\"gib_per_s\":", lines[0], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_OverThePeerService_NeedsNoHttp()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.StartAsync("serve", "--checkpoint", "m=" + temp["model"], "--listen", "unix:" + temp["ce.sock"], "--json");
        Assert.Equal("unix:" + temp["ce.sock"], holder.Http);

        (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded();

        AssertSame(temp["model"], temp["copy"]);
    }

    [Fact]
    public async Task JoinJson_OneRound_HasTheContractsMembers()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);

        Outcome outcome = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--to", "null", "--json")).Succeeded();

        using JsonDocument document = JsonDocument.Parse(outcome.Output);
        JsonElement root = document.RootElement;
        Assert.Equal(["checkpoint", "bytes", "tensors", "seconds", "gib_per_s", "verified", "transports", "owners", "phases"], root.EnumerateObject().Select(member => member.Name));
        long bytes = SmallCheckpoint.Read(temp["model"]).Values.Sum(tensor => (long)tensor.Bytes.Length);
        Assert.Equal(bytes, root.GetProperty("bytes").GetInt64());
        Assert.Equal(7, root.GetProperty("tensors").GetInt32());
        Assert.True(root.GetProperty("verified").GetBoolean());
        Assert.Equal("join-checkpoint", root.GetProperty("checkpoint").GetString());
        Assert.True(root.GetProperty("transports").GetProperty("tcp").GetInt64() >= bytes);
        Assert.Equal(["metas", "plan", "allocate", "transfer", "verify", "write"], root.GetProperty("phases").EnumerateObject().Select(phase => phase.Name));
    }

    [Fact]
    public async Task JoinJson_UnverifiedRounds_SaysWhyAndListsThem()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);

        Outcome outcome = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--copy", "--no-verify", "--repeat", "3", "--json")).Succeeded();

        using JsonDocument document = JsonDocument.Parse(outcome.Output);
        Assert.False(document.RootElement.GetProperty("verified").GetBoolean());
        Assert.Equal("disabled", document.RootElement.GetProperty("unverified_reason").GetString());
        JsonElement rounds = document.RootElement.GetProperty("rounds");
        Assert.Equal(3, rounds.GetArrayLength());
        Assert.All(rounds.EnumerateArray(), round => Assert.True(round.GetProperty("seconds").GetDouble() > 0 && round.GetProperty("phases").GetProperty("transfer").GetDouble() > 0));
        Assert.Single(outcome.Errors.Split('\n', StringSplitOptions.RemoveEmptyEntries), line => line.Contains("not verified", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Join_DigestsOff_IsUnverifiedUnlessRequired()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--digest", "none");

        Outcome outcome = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "null", "--json")).Succeeded();
        using JsonDocument document = JsonDocument.Parse(outcome.Output);
        Assert.Equal("owner-has-no-digests", document.RootElement.GetProperty("unverified_reason").GetString());

        Outcome required = await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["copy"], "--require-verify");
        Assert.Contains("--require-verify", required.FailedWithOneLine(), StringComparison.Ordinal);
        Assert.Equal(["model"], temp.Names);
    }

    [Fact]
    public async Task Join_IncludeAndExclude_TakesOnlyThose()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);

        (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["copy"], "--weights-only",
            "--include", "model.*", "--include", "lm_head.*", "--exclude", "*.norm.*", "--exclude", "*empty")).Succeeded();

        Dictionary<string, Tensor> expected = SmallCheckpoint.Read(temp["model"]);
        foreach (string left in new[] { "größe.重み", "model.layers.0.norm.weight", "model.layers.1.empty" })
        {
            Assert.True(expected.Remove(left));
        }
        AssertSame(expected, SmallCheckpoint.Read(temp["copy"]));
        Assert.False(File.Exists(Path.Combine(temp["copy"], "config.json")));
    }

    [Theory]
    [InlineData("metas.pkl", 0x80)]
    [InlineData("metas.json", '{')]
    public async Task MetasFile_SavedByServe_IsJoinedFrom(string name, int firstByte)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--save-metas-file", temp[name]);
        Assert.Equal(firstByte, File.ReadAllBytes(temp[name])[0]);

        (await Engine.RunAsync("join", "--load-metas-file", temp[name], "--to", "dir:" + temp["copy"])).Succeeded();

        AssertSame(temp["model"], temp["copy"]);
        Assert.Equal(new[] { "copy", name, "model" }.Order(StringComparer.Ordinal), temp.Names);
    }

    [Fact]
    public async Task Metas_EveryFormat_DescribesTheSame()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);

        string table = (await Engine.RunAsync("metas", "--metas-url", holder.MetasUrl)).Succeeded().Output;
        Assert.Contains(holder.P2pStoreAddress, table, StringComparison.Ordinal);
        Assert.Contains("float8_e4m3fn 1", table, StringComparison.Ordinal);

        string json = (await Engine.RunAsync("metas", "--metas-url", holder.MetasUrl, "--format", "json")).Succeeded().Output;
        using (JsonDocument document = JsonDocument.Parse(json))
        {
            Assert.Equal(holder.P2pStoreAddress, document.RootElement.GetProperty("0").GetProperty("p2p_store_addr").GetString());
        }
        (await Engine.RunAsync("metas", "--metas-url", holder.MetasUrl, "--format", "pickle", "--output", temp["m.pkl"])).Succeeded();
        Assert.Equal(table, (await Engine.RunAsync("metas", "--load-metas-file", temp["m.pkl"])).Succeeded().Output);
    }

    [Fact]
    public async Task Plan_Json_SumsUpByOwner()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--rank", "3");

        using JsonDocument document = JsonDocument.Parse((await Engine.RunAsync("plan", "--metas-url", holder.MetasUrl, "--json", "--include", "lm_head.*")).Succeeded().Output);

        Assert.Equal(600_002, document.RootElement.GetProperty("bytes").GetInt64());
        JsonElement owner = Assert.Single(document.RootElement.GetProperty("owners").EnumerateArray());
        Assert.Equal((3, 1, 1), (owner.GetProperty("rank").GetInt32(), owner.GetProperty("tensors").GetInt32(), owner.GetProperty("ranges").GetInt32()));
        Assert.InRange(document.RootElement.GetProperty("memory_bytes").GetInt64(), 600_002, 600_002 + 256);
        JsonElement update = document.RootElement.GetProperty("update_bytes");
        Assert.InRange(update.GetProperty("buckets").GetInt64(), 2 * 600_002, 2 * (600_002 + 4096));      // one tensor: a bucket of its size, twice
        Assert.Equal(48 << 20, update.GetProperty("staging").GetInt64());
    }

    [Fact]
    public async Task Serve_Consume_HoldsWhatIsGoneFromMemory()
    {
        using var temp = new TempDirectory();
        string folder = $"/dev/shm/ce-test-{Guid.NewGuid():N}";
        SmallCheckpoint.WriteSharded(folder);
        try
        {
            SmallCheckpoint.WriteSharded(temp["model"]);
            await using Holder holder = await Holder.ServeAsync(folder, "--consume");
            Assert.Empty(Directory.GetFiles(folder, "*.safetensors"));
            (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["joined"], "--require-verify")).Succeeded();
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
        Assert.Equal(2, Directory.GetFiles(temp["joined"], "*.safetensors").Length);
        var refused = await Engine.RunAsync("serve", "--checkpoint", "m=" + temp["model"], "--consume", "--listen", "http://127.0.0.1:0");
        Assert.Equal(1, refused.ExitCode);
        Assert.Contains("/dev/shm/", refused.Errors, StringComparison.Ordinal);
        Assert.Equal(2, (await Engine.RunAsync("serve", "--checkpoint", "m=" + temp["model"], "--shared-pool", "--hold", "map")).ExitCode);
        Assert.Equal(2, (await Engine.RunAsync("join", "--metas-url", "http://127.0.0.1:1/v1/metas", "--serve", "--consume")).ExitCode);      // it holds no files
    }

    [Fact]
    public async Task Serve_TwoRanksGather_TellTheWholeWorld()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["part0"], 100_000, "a");
        SmallCheckpoint.WriteSingle(temp["part1"], 200_000, "b");
        string first = "unix:" + temp["0.sock"];
        string second = "unix:" + temp["1.sock"];
        Task<Holder> starting = Holder.StartAsync("serve", "--checkpoint", "m=" + temp["part0"], "--rank", "0", "--listen", first, "--peers", second, "--gather", "--json");
        await using Holder one = await Holder.StartAsync("serve", "--checkpoint", "m=" + temp["part1"], "--rank", "1", "--listen", second, "--peers", first, "--gather", "--json");
        await using Holder zero = await starting;

        (await Engine.RunAsync("join", "--metas-url", zero.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded();

        Dictionary<string, Tensor> expected = SmallCheckpoint.Read(temp["part0"]);
        expected.Add("b", SmallCheckpoint.Read(temp["part1"])["b"]);
        AssertSame(expected, SmallCheckpoint.Read(temp["copy"]));
    }

    [Fact]
    public async Task Serve_Terminated_DrainsAndExits0()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        holder.Engine.Signal(Engine.SigTerm);
        Outcome end = (await holder.Engine.EndAsync()).Succeeded();
        Assert.Single(end.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries));
        Assert.Empty(end.ErrorLines);
    }

    [Fact]
    public async Task Serve_SleepTime_EndsByItself()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        Outcome end = (await Engine.RunAsync("serve", "--checkpoint", "m=" + temp["model"], "--listen", "http://127.0.0.1:0", "--sleep-time", "0.1")).Succeeded();
        Assert.Contains("join with: checkpoint-engine join --metas-url http://127.0.0.1:", end.Output, StringComparison.Ordinal);
    }

    internal static void AssertSame(string expected, string actual) => AssertSame(SmallCheckpoint.Read(expected), SmallCheckpoint.Read(actual));

    private static void AssertSame(Dictionary<string, Tensor> expected, Dictionary<string, Tensor> actual)
    {
        Assert.Equal(expected.Keys.Order(StringComparer.Ordinal), actual.Keys.Order(StringComparer.Ordinal));
        Assert.All(expected, pair => Assert.True(pair.Value.Equals(actual[pair.Key]), $"{pair.Key} differs"));
    }
}
