using System.Globalization;
using System.Text;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Whole processes that have too little memory or disk of their own: one line that says what, where and what to do, and nothing is left. The kernel would end them without a word.</summary>
public sealed class RoomTests : IDisposable
{
    // What the command needs for itself when it is compiled as it runs fits in; the file, which is all holes, does not.
    private const int GroupMebibytes = 192;
    private const long BeyondGroupBytes = 256L << 20;

    private const int LimitKibibytes = 3 << 20;
    private const long BeyondLimitBytes = 4L << 30;

    private const int FileLimitBlocks = 2048;       // of 512 bytes or of 1,024: sh's choice
    private const int BeyondFileLimitBytes = 4 << 20;

    private readonly TempDirectory _temp = new();

    public void Dispose() => _temp.Dispose();

    [Theory]
    [InlineData("memfd")]
    [InlineData("anon")]
    public async Task Serve_BeyondItsControlGroup_SaysSoBeforeItReads(string hold)
    {
        using MemoryLimit limit = Limit();
        WriteHoles(_temp["model"], BeyondGroupBytes);

        await using Engine serve = Engine.StartAs(limit.Within(), Serve("--hold", hold));
        Outcome end = await serve.EndAsync();

        string line = end.FailedWithOneLine();
        Assert.Contains("left of the", line, StringComparison.Ordinal);
        Assert.Contains("raise the container's memory limit", line, StringComparison.Ordinal);
        Assert.Empty(end.Output);
        Assert.Equal(["model"], _temp.Names);
    }

    [Fact]
    public async Task Serve_FilesBeyondItsControlGroupWhereTheyAre_Serves()
    {
        using MemoryLimit limit = Limit();
        WriteHoles(_temp["model"], BeyondGroupBytes);
        await using Holder holder = await Holder.StartAsync(limit.Within(), Serve("--hold", "map", "--digest", "none"));
        (await Engine.RunAsync("metas", "--metas-url", holder.MetasUrl)).Succeeded();
    }

    [Fact]
    public async Task Serve_ConsumeBeyondItsControlGroup_RemovesNothing()
    {
        using MemoryLimit limit = Limit();
        string inMemory = Directory.CreateDirectory($"/dev/shm/ce-room-{Guid.NewGuid():N}").FullName;
        try
        {
            WriteHoles(inMemory, BeyondGroupBytes);
            await using Engine serve = Engine.StartAs(limit.Within(), ["serve", "--checkpoint", "m=" + inMemory, "--listen", "http://127.0.0.1:0", "--json", "--consume", "--hold", "anon"]);
            Assert.Contains("left of the", (await serve.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);
            Assert.True(File.Exists(Path.Combine(inMemory, "model.safetensors")));
        }
        finally
        {
            Directory.Delete(inMemory, recursive: true);
        }
    }

    [Theory]
    [InlineData()]
    [InlineData("--shared-pool")]
    public async Task Replace_BeyondTheControlGroup_IsRefusedAndTheOldOneStays(params string[] more)
    {
        using MemoryLimit limit = Limit();
        SmallCheckpoint.WriteSharded(_temp["model"]);
        WriteHoles(_temp["next"], BeyondGroupBytes);
        await using Holder holder = await Holder.StartAsync(limit.Within(), Serve(["--hold", "anon", "--allow-path", _temp.Path, "--listen", "unix:" + _temp["control"], .. more]));
        using var control = new HolderControl(_temp["control"]);

        string? refused = await control.TryReplaceAsync(_temp["next"]);

        Assert.Contains("left of the", refused ?? "it was taken", StringComparison.Ordinal);
        (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--to", "dir:" + _temp["copy"], "--require-verify")).Succeeded();
        ServeAndJoinTests.AssertSame(_temp["model"], _temp["copy"]);
        Assert.Null(await control.TryReplaceAsync(_temp["model"]));
    }

    [Fact]
    public async Task Join_IntoMemoryBeyondItsControlGroup_SaysSoBeforeItReads()
    {
        using MemoryLimit limit = Limit();
        WriteHoles(_temp["model"], BeyondGroupBytes);
        await using Holder holder = await Holder.StartAsync(Serve("--digest", "none"));
        await using Engine join = Engine.StartAs(limit.Within(), "join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--to", "memory");
        Assert.Contains("left of the", (await join.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Follow_NextVersionBeyondTheControlGroup_StaysAtTheOneBeforeAndSaysSoOnce()
    {
        using MemoryLimit limit = Limit();
        SmallCheckpoint.WriteSharded(_temp["model"]);
        WriteHoles(_temp["next"], BeyondGroupBytes);
        await using Holder holder = await Holder.StartAsync(Serve("--allow-path", _temp.Path, "--listen", "unix:" + _temp["control"]));
        await using Holder follower = await Holder.StartAsync(limit.Within(), "join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--serve", "--follow", "--listen", "http://127.0.0.1:0", "--json");
        using var control = new HolderControl(_temp["control"]);
        await control.ReplaceAsync(_temp["next"]);

        int answers = await control.CountMetasAnswersAsync() + 4;       // it may be taking the first of these, and is behind two at least of the others
        using var patience = new CancellationTokenSource(Engine.Patience);
        while (await control.CountMetasAnswersAsync() < answers)
        {
            await Task.Delay(20, patience.Token);
        }
        (await Engine.RunAsync("join", "--metas-url", follower.MetasUrl, "--transport", "tcp", "--to", "dir:" + _temp["copy"], "--require-verify")).Succeeded();
        ServeAndJoinTests.AssertSame(_temp["model"], _temp["copy"]);

        follower.Engine.Signal(Engine.SigTerm);
        Outcome end = (await follower.Engine.EndAsync()).Succeeded();
        Assert.Single(end.Errors.Split('\n'), line => line.Contains("left of the", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("-v", "anon")]
    [InlineData("-v", "memfd")]
    [InlineData("-v", "map")]
    [InlineData("-d", "anon")]
    public async Task Serve_BeyondALimitOfItsProcess_NamesTheLimit(string which, string hold)
    {
        Assert.SkipWhen(AvailableBytes() < BeyondLimitBytes, "this host has less memory than the file that is beyond the limit");
        WriteHoles(_temp["model"], BeyondLimitBytes);
        await using Engine serve = Engine.StartAs(ProcessLimit.Within($"ulimit {which} {LimitKibibytes}"), Serve("--hold", hold, "--digest", "none"));
        Assert.Contains($"'ulimit {which} unlimited'", (await serve.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);
        Assert.Equal(["model"], _temp.Names);
    }

    [Fact]
    public async Task ServeAndJoin_BeyondTheSizeOfFiles_NameTheLimitAndLeaveNothing()
    {
        SmallCheckpoint.WriteSingle(_temp["model"], BeyondFileLimitBytes);
        await using Engine serve = Engine.StartAs(ProcessLimit.Within($"ulimit -f {FileLimitBlocks}"), Serve("--hold", "memfd"));
        Assert.Contains("'ulimit -f unlimited'", (await serve.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);

        await using Holder holder = await Holder.StartAsync(Serve());
        await using Engine join = Engine.StartAs(ProcessLimit.Within($"ulimit -f {FileLimitBlocks}"), "join", "--metas-url", holder.MetasUrl, "--to", "dir:" + _temp["copy"]);
        string line = (await join.EndAsync()).FailedWithOneLine();
        Assert.Contains(_temp.Path, line, StringComparison.Ordinal);
        Assert.Contains("'ulimit -f unlimited'", line, StringComparison.Ordinal);
        Assert.Equal(["model"], _temp.Names);
    }

    [Fact]
    public async Task Metas_OntoADiskThatIsFull_SayWhereAndLeaveNothing()
    {
        using SmallDisk? disk = SmallDisk.TryMount(_temp["disk"], 1, out string? whyNot);
        Assert.SkipWhen(disk is null, whyNot ?? "");
        Fill(Path.Combine(_temp["disk"], "full"));
        SmallCheckpoint.WriteSharded(_temp["model"]);
        string file = Path.Combine(_temp["disk"], "metas.json");

        Outcome serve = await Engine.RunAsync(Serve("--save-metas-file", file));
        string line = serve.FailedWithOneLine();
        Assert.Contains(file, line, StringComparison.Ordinal);
        Assert.Contains("make room", line, StringComparison.Ordinal);
        Assert.Empty(serve.Output);

        await using Holder holder = await Holder.StartAsync(Serve());
        line = (await Engine.RunAsync("metas", "--metas-url", holder.MetasUrl, "--format", "json", "--output", file)).FailedWithOneLine();
        Assert.Contains("make room", line, StringComparison.Ordinal);
        await using (Engine redirected = Engine.StartAs(["sh", "-c", $"exec \"$@\" >{Path.Combine(_temp["disk"], "full")}.out", "sh"], "metas", "--metas-url", holder.MetasUrl, "--format", "json"))
        {
            Assert.Contains("write metas to standard output", (await redirected.EndAsync()).FailedWithOneLine(), StringComparison.Ordinal);
        }
        line = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "dir:" + Path.Combine(_temp["disk"], "copy"))).FailedWithOneLine();
        Assert.Contains("make room", line, StringComparison.Ordinal);
        Assert.Equal(["full", "full.out"], new DirectoryInfo(_temp["disk"]).GetFileSystemInfos().Select(entry => entry.Name).Order(StringComparer.Ordinal));
    }

    private static MemoryLimit Limit()
    {
        MemoryLimit? limit = MemoryLimit.TryCreate(GroupMebibytes, out string? whyNot);
        Assert.SkipWhen(limit is null, whyNot ?? "");
        return limit;
    }

    private string[] Serve(params string[] more) => ["serve", "--checkpoint", "m=" + _temp["model"], "--listen", "http://127.0.0.1:0", "--json", .. more];

    private static void WriteHoles(string directory, long bytes)
    {
        Directory.CreateDirectory(directory);
        byte[] header = Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{{\"weight\":{{\"dtype\":\"U8\",\"shape\":[{bytes}],\"data_offsets\":[0,{bytes}]}}}}"));
        using FileStream file = File.Create(Path.Combine(directory, "model.safetensors"));
        file.Write(BitConverter.GetBytes((long)header.Length));
        file.Write(header);
        file.SetLength(file.Length + bytes);
    }

    private static void Fill(string path)
    {
        using FileStream file = new(path, FileMode.Create, FileAccess.Write, FileShare.None, bufferSize: 0);
        byte[] page = new byte[4096];
        try
        {
            while (true)
            {
                file.Write(page);
            }
        }
        catch (IOException)
        {
            // It is full.
        }
    }

    private static long AvailableBytes()
    {
        string line = File.ReadLines("/proc/meminfo").First(line => line.StartsWith("MemAvailable:", StringComparison.Ordinal));
        return long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) << 10;
    }
}
