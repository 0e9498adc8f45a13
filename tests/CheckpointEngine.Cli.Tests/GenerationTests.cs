using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Whole processes whose bytes are not what they were, or not what they should be: one version's bytes come of it, or a clear error.</summary>
public sealed class GenerationTests
{
    private const int Bytes = 64 << 20;

    // Thirty seconds without a word of its holder.
    private static readonly TimeSpan s_leaseLifetime = TimeSpan.FromSeconds(30);

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Delete_OneThatHasALeaseHasStopped_WaitsForTheLeaseAndNoLonger()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--drain-timeout", "300");
        await using Engine join = Engine.Start("join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--repeat", "1000000", "--to", "null");
        await InTransferAsync(join);

        join.Signal(Engine.SigStop);
        long start = Stopwatch.GetTimestamp();
        await DeleteAsync(holder);

        Assert.InRange(Stopwatch.GetElapsedTime(start), TimeSpan.Zero, 2 * s_leaseLifetime);      // also when it has stopped with an answer half taken
    }

    [Fact]
    public async Task Join_HolderIsRestartedOnItsPortWithOtherContent_HasThatAlone()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["one"], Bytes);
        CopyAndChange(temp["one"], temp["two"], at: -1);
        using NetworkOfHosts network = SlowOrSkip();
        await using Holder first = await Holder.StartAsync(network.On(0), "serve", "--checkpoint", "m=" + temp["one"], "--listen", $"http://{NetworkOfHosts.AddressOf(0)}:0", "--insecure", "--json");
        await using Engine join = Engine.StartAs(network.On(1), "join", "--metas-url", first.MetasUrl, "--transport", "tcp", "--require-verify", "--retry-timeout", "60", "--to", "dir:" + temp["copy"]);
        await SentAsync(network, network.BytesSentBy(0) + Bytes / 4);

        first.Engine.Signal(Engine.SigKill);
        await first.Engine.EndAsync();
        await using Holder second = await Holder.StartAsync(network.On(0), "serve", "--checkpoint", "m=" + temp["two"], "--listen", first.Http, "--insecure", "--json");

        Assert.Contains("went on with the metas of now", (await join.EndAsync()).Succeeded().Errors, StringComparison.Ordinal);
        Assert.Equal(first.MetasUrl, second.MetasUrl);
        ServeAndJoinTests.AssertSame(temp["two"], temp["copy"]);
    }

    [Fact]
    public async Task Join_ReplicasDifferInOneByte_TheFirstOnesCountsAndTheOtherIsNamed()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["one"], Bytes);
        CopyAndChange(temp["one"], temp["two"], at: -1);
        await using Holder first = await Holder.ServeAsync(temp["one"], "--hold", "anon");
        await using Holder second = await Holder.ServeAsync(temp["two"], "--hold", "anon");

        Outcome outcome = (await Engine.RunAsync("join", "--metas-url", first.MetasUrl, "--metas-url", second.MetasUrl, "--transport", "tcp", "--require-verify", "--to", "dir:" + temp["copy"])).Succeeded();

        Assert.Contains($"went on without rank 1 at {second.P2pStoreAddress}: it is no replica", outcome.Errors, StringComparison.Ordinal);
        ServeAndJoinTests.AssertSame(temp["one"], temp["copy"]);
    }

    // What stands in the memory of one that is done is changed under it, as broken memory would: it does not know.
    [Fact]
    public async Task Join_ARelayServesGarbage_IsLeftAndNamedAndTheRestComesFromTheHolder()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "only root can be sure that it may write into another process");
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        await using Holder relay = await Holder.StartAsync("join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--relay", "--serve", "--listen", "http://127.0.0.1:0", "--json");
        await GarbleAsync(relay);

        Outcome outcome = (await Engine.RunAsync("join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--relay", "--require-verify", "--to", "dir:" + temp["copy"])).Succeeded();

        Assert.Contains("a relay was left: read from relay at 127.0.0.1:", outcome.Errors, StringComparison.Ordinal);
        ServeAndJoinTests.AssertSame(temp["model"], temp["copy"]);
    }

    [Fact]
    public async Task Join_SupersededTwiceWhileItReads_HasTheLastVersion()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["one"], Bytes);
        CopyAndChange(temp["one"], temp["two"], at: 0);
        CopyAndChange(temp["one"], temp["three"], at: 1);
        using NetworkOfHosts network = SlowOrSkip();
        // Over HTTP at a socket, which network namespaces share; the bytes go the slow way.
        await using Holder holder = await Holder.StartAsync(network.On(0), "serve", "--checkpoint", "m=" + temp["one"], "--listen", $"http://{NetworkOfHosts.AddressOf(0)}:0", "--listen", "unix:" + temp["socket"],
            "--insecure", "--allow-path", temp.Path, "--drain-timeout", "0", "--json");
        await using Engine join = Engine.StartAs(network.On(1), "join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--require-verify", "--retry-timeout", "60", "--to", "dir:" + temp["copy"]);
        using var control = new HolderControl(temp["socket"]);
        long before = network.BytesSentBy(0);
        foreach (string next in (string[])["two", "three"])
        {
            await SentAsync(network, before += Bytes / 4);
            await control.ReplaceAsync(temp[next]);
            before = network.BytesSentBy(0);
        }

        (await join.EndAsync()).Succeeded();

        ServeAndJoinTests.AssertSame(temp["three"], temp["copy"]);
    }

    private static NetworkOfHosts SlowOrSkip()
    {
        if (NetworkOfHosts.TryCreate(2, 400, out string? whyNot) is NetworkOfHosts network)
        {
            return network;
        }
        Assert.Skip(whyNot!);
        return null;
    }

    private static Task<string> InTransferAsync(Engine join)
        => join.WaitForLineAsync(line => line.StartsWith("transfer:", StringComparison.Ordinal) || line.StartsWith("verify:", StringComparison.Ordinal));

    private static async Task SentAsync(NetworkOfHosts network, long bytes)
    {
        for (long start = Stopwatch.GetTimestamp(); network.BytesSentBy(0) < bytes;)
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < Engine.Patience);
            await Task.Yield();
        }
    }

    private static async Task DeleteAsync(Holder holder)
    {
        using var http = new HttpClient();
        (await http.DeleteAsync(new Uri(holder.Http + "/v1/checkpoints/m"), Cancel)).EnsureSuccessStatusCode();
    }

    private static void CopyAndChange(string from, string to, int at)
    {
        Directory.CreateDirectory(to);
        foreach (string file in Directory.GetFiles(from))
        {
            byte[] bytes = File.ReadAllBytes(file);
            if (Path.GetExtension(file) == ".safetensors")
            {
                int header = 8 + BitConverter.ToInt32(bytes);
                bytes[at < 0 ? bytes.Length + at : header + at] ^= 1;
            }
            File.WriteAllBytes(Path.Combine(to, Path.GetFileName(file)), bytes);
        }
    }

    private static async Task GarbleAsync(Holder holder)
    {
        using var http = new HttpClient();
        string metas = await http.GetStringAsync(new Uri(holder.MetasUrl), Cancel);
        long address = long.Parse(Regex.Match(metas, "\"ptr\":\"?([0-9]+)").Groups[1].Value, CultureInfo.InvariantCulture);
        byte[] garbage = new byte[Bytes];
        await using FileStream memory = new($"/proc/{holder.Engine.ProcessId}/mem", FileMode.Open, FileAccess.Write, FileShare.ReadWrite, bufferSize: 0);
        memory.Seek(address, SeekOrigin.Begin);
        memory.Write(garbage);
    }
}
