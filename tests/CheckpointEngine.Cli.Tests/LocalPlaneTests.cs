using System.Diagnostics;
using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Processes of one host that hand each other their memory, and end at the wrong moment.</summary>
public sealed class LocalPlaneTests
{
    private static JsonElement Parse(Outcome outcome) => JsonDocument.Parse(outcome.Succeeded().Output.Split('\n')[0]).RootElement;

    [Theory]
    [InlineData("map", "--to memory", true)]
    [InlineData("memfd", "--to memory", true)]
    [InlineData("anon", "--to memory", false)]
    [InlineData("map", "--to memory --copy", false)]
    [InlineData("memfd", "--to null --require-verify", false)]
    [InlineData("anon", "--to null --require-verify", false)]
    public async Task Join_OfTheSameHost_GoesByItsMemoryAndSaysHow(string hold, string arguments, bool attached)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--hold", hold);
        JsonElement report = Parse(await Engine.RunAsync(["join", "--metas-url", holder.MetasUrl, "--json", "--transport", "local", .. arguments.Split(' ')]));
        JsonElement owner = Assert.Single(report.GetProperty("owners").EnumerateArray());
        Assert.Equal("local", owner.GetProperty("transport").GetString());
        Assert.Equal(attached, owner.GetProperty("attached").GetBoolean());
        Assert.Equal(["local"], report.GetProperty("transports").EnumerateObject().Select(transport => transport.Name));
        Assert.Equal(attached, report.TryGetProperty("attached_bytes", out JsonElement bytes) && bytes.GetInt64() == report.GetProperty("bytes").GetInt64());
        Assert.Equal(hold == "anon" && arguments == "--to memory", owner.TryGetProperty("reason", out _));
    }

    [Theory]
    [InlineData("map")]
    [InlineData("memfd")]
    public async Task AHolderThatIsKilled_LeavesWhatIsAttachedToItAndItsJoinerServesOn(string hold)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder first = await Holder.ServeAsync(temp["model"], "--hold", hold);
        await using Holder second = await Holder.StartAsync("join", "--metas-url", first.MetasUrl, "--transport", "local", "--serve", "--listen", "http://127.0.0.1:0", "--json");
        first.Engine.Signal(Engine.SigKill);
        await first.Engine.EndAsync();
        foreach (string transport in (string[])["local", "tcp"])
        {
            (await Engine.RunAsync("join", "--metas-url", second.MetasUrl, "--transport", transport, "--to", "dir:" + temp[transport], "--require-verify")).Succeeded();
            Assert.Equal(SmallCheckpoint.Read(temp["model"]), SmallCheckpoint.Read(temp[transport]));
        }
    }

    [Fact]
    public async Task JoinersThatAreKilledWhileAttached_LeaveNothingAtTheHolder()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--hold", "memfd");
        (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl)).Succeeded();
        int before = CountDescriptors(holder);
        for (int i = 0; i < 3; i++)
        {
            await using Holder joiner = await Holder.StartAsync("join", "--metas-url", holder.MetasUrl, "--transport", "local", "--serve", "--listen", "http://127.0.0.1:0", "--json");
            joiner.Engine.Signal(Engine.SigKill);
            await joiner.Engine.EndAsync();
        }
        (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--transport", "local", "--require-verify")).Succeeded();
        // Connections are closed a moment after their peers.
        using var patience = new CancellationTokenSource(Engine.Patience);
        while (CountDescriptors(holder) > before)
        {
            await Task.Delay(20, patience.Token);
        }
    }

    [Fact]
    public async Task AnotherUser_IsRefusedTheMemoryUnlessAllowedOrWithTheToken()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && Environment.IsPrivilegedProcess && File.Exists("/usr/bin/setpriv"), "needs root and setpriv (util-linux) to become another user");
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        File.WriteAllText(temp["token"], "correct horse battery staple");
        foreach (string path in Directory.GetFileSystemEntries(Path.GetDirectoryName(temp["model"])!, "*", SearchOption.AllDirectories).Append(Path.GetDirectoryName(temp["model"])!))
        {
            SetMode(path, Directory.Exists(path) ? (UnixFileMode)0b111_101_101 : (UnixFileMode)0b110_100_100);
        }
        await using (Holder holder = await Holder.ServeAsync(temp["model"]))
        {
            JsonElement owner = Assert.Single(Parse(await JoinAsNobodyAsync(holder)).GetProperty("owners").EnumerateArray());
            Assert.Equal("tcp", owner.GetProperty("transport").GetString());
            Assert.Contains("user 65534 may not have memory of this holder", owner.GetProperty("reason").GetString(), StringComparison.Ordinal);
        }
        await using (Holder holder = await Holder.ServeAsync(temp["model"], "--local-peers", "1,65534"))
        {
            Assert.True(Assert.Single(Parse(await JoinAsNobodyAsync(holder)).GetProperty("owners").EnumerateArray()).GetProperty("attached").GetBoolean());
        }
        await using (Holder holder = await Holder.ServeAsync(temp["model"], "--token-file", temp["token"]))
        {
            Assert.True(Assert.Single(Parse(await JoinAsNobodyAsync(holder, "--token-file", temp["token"])).GetProperty("owners").EnumerateArray()).GetProperty("attached").GetBoolean());
        }
        // Without a file behind it the kernel decides, whatever the holder allows.
        await using (Holder holder = await Holder.ServeAsync(temp["model"], "--hold", "anon", "--local-peers", "all"))
        {
            JsonElement owner = Assert.Single(Parse(await JoinAsNobodyAsync(holder)).GetProperty("owners").EnumerateArray());
            Assert.Equal("tcp", owner.GetProperty("transport").GetString());
            Assert.Contains("EPERM", owner.GetProperty("reason").GetString(), StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task Plan_AsksTheOwnersUnlessOffline()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        JsonElement owner = Assert.Single(Parse(await Engine.RunAsync("plan", "--metas-url", holder.MetasUrl, "--json")).GetProperty("owners").EnumerateArray());
        Assert.Equal("local", owner.GetProperty("transport").GetString());
        Assert.True(owner.GetProperty("attached").GetBoolean());
        owner = Assert.Single(Parse(await Engine.RunAsync("plan", "--metas-url", holder.MetasUrl, "--json", "--offline")).GetProperty("owners").EnumerateArray());
        Assert.False(owner.TryGetProperty("transport", out _));
    }

    private static void SetMode(string path, UnixFileMode mode)
    {
        if (OperatingSystem.IsLinux())
        {
            File.SetUnixFileMode(path, mode);
        }
    }

    private static int CountDescriptors(Holder holder) => Directory.GetFiles($"/proc/{holder.Engine.ProcessId}/fd").Length;

    private static async Task<Outcome> JoinAsNobodyAsync(Holder holder, params string[] more)
    {
        var start = new ProcessStartInfo("/usr/bin/setpriv",
            ["--reuid", "65534", "--regid", "65534", "--clear-groups", Engine.Command, "join", "--metas-url", holder.MetasUrl, "--json", .. more])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.Environment["DOTNET_BUNDLE_EXTRACT_BASE_DIR"] = Path.GetTempPath();
        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = await process.StandardOutput.ReadToEndAsync().WaitAsync(Engine.Patience);
        await process.WaitForExitAsync().WaitAsync(Engine.Patience);
        return new Outcome(process.ExitCode, output, await errors);
    }
}
