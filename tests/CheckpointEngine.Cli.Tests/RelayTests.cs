using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Joiners that are started together, each a process on a host of its own, behind one holder whose link is slow.</summary>
public sealed class RelayTests(ITestOutputHelper output)
{
    private const int OwnerMegabits = 400;
    private const double MostTimes = 1.6;
    private const double MostCopies = 2.5;

    // A machine that others use, too, may be slow for a while; that the holder sends too much is no matter of time.
    private const int Tries = 3;

    [Fact]
    public async Task Join_EightBehindASlowHolder_TakesNearTheTimeOfOne()
    {
        const int Joiners = 8;
        const int Bytes = 512 << 20;
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        using NetworkOfHosts network = CreateOrSkip(1 + Joiners, OwnerMegabits);
        await using Holder holder = await ServeAsync(network, temp["model"]);
        output.WriteLine("holder limited to 400 Mbit/s, 512 MiB: 10.7 s at the least");
        output.WriteLine("  joiners  slowest s  of one alone  holder sent, copies");
        for (int tried = 1; ; tried++)
        {
            long before = network.BytesSentBy(0);
            double alone = Seconds(await JoinAsync(network, holder, 1, "memory"));
            output.WriteLine($"  {1,7}  {alone,9:0.00}  {1.0,12:0.00}  {(network.BytesSentBy(0) - before) / (double)Bytes,19:0.00}");
            before = network.BytesSentBy(0);

            Outcome[] outcomes = await Task.WhenAll(Enumerable.Range(1, Joiners).Select(host
                => JoinAsync(network, holder, host, host <= 2 ? "dir:" + temp[$"copy{tried}.{host}"] : "memory", "--relay")));

            double slowest = outcomes.Max(Seconds);
            double copies = (network.BytesSentBy(0) - before) / (double)Bytes;
            output.WriteLine($"  {Joiners,7}  {slowest,9:0.00}  {slowest / alone,12:0.00}  {copies,19:0.00}");
            ServeAndJoinTests.AssertSame(temp["model"], temp[$"copy{tried}.1"]);
            ServeAndJoinTests.AssertSame(temp["model"], temp[$"copy{tried}.2"]);
            Assert.All(outcomes, outcome => Assert.True(IsVerified(outcome)));
            Assert.InRange(copies, 1, MostCopies);
            if (slowest <= MostTimes * alone || tried == Tries)
            {
                Assert.InRange(slowest / alone, 0, MostTimes);
                return;
            }
        }
    }

    [Theory]
    [InlineData(Engine.SigKill)]
    [InlineData(Engine.SigStop)]
    public async Task Join_OneOfThemIsLost_TheOthersGoOn(int signal)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], 128 << 20);
        using NetworkOfHosts network = CreateOrSkip(4, OwnerMegabits);
        await using Holder holder = await ServeAsync(network, temp["model"]);
        await using Engine lost = Start(network, holder, 1, "memory", "--relay");
        Task<Outcome>[] others = [JoinAsync(network, holder, 2, "dir:" + temp["two"], "--relay"), JoinAsync(network, holder, 3, "dir:" + temp["three"], "--relay")];
        await InTransferAsync(lost);

        lost.Signal(signal);

        Assert.All(await Task.WhenAll(others), outcome => Assert.True(IsVerified(outcome)));
        ServeAndJoinTests.AssertSame(temp["model"], temp["two"]);
        ServeAndJoinTests.AssertSame(temp["model"], temp["three"]);
    }

    [Fact]
    public async Task Join_OneOfThemIsCutOffForAWhile_AllHaveEverything()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], 128 << 20);
        using NetworkOfHosts network = CreateOrSkip(4, OwnerMegabits);
        await using Holder holder = await ServeAsync(network, temp["model"]);
        await using Engine cut = Start(network, holder, 1, "dir:" + temp["one"], "--relay", "--stall-timeout", "2", "--retry-timeout", "60");
        Task<Outcome>[] others = [JoinAsync(network, holder, 2, "dir:" + temp["two"], "--relay"), JoinAsync(network, holder, 3, "dir:" + temp["three"], "--relay")];
        await InTransferAsync(cut);

        network.Plug(1, isIn: false);
        Assert.All(await Task.WhenAll(others), outcome => Assert.True(IsVerified(outcome)));
        network.Plug(1, isIn: true);

        (await cut.EndAsync()).Succeeded();
        foreach (string copy in (string[])["one", "two", "three"])
        {
            ServeAndJoinTests.AssertSame(temp["model"], temp[copy]);
        }
    }

    // What it has it still offers: the next one need not wait for the holder.
    [Fact]
    public async Task Join_OneThatServesHasItAlready_TheNextReadsNothingFromTheHolder()
    {
        const int Bytes = 64 << 20;
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        using NetworkOfHosts network = CreateOrSkip(3, OwnerMegabits);
        await using Holder holder = await ServeAsync(network, temp["model"]);
        await using Holder second = await Holder.StartAsync(network.On(1), "join", "--metas-url", holder.MetasUrl, "--relay", "--serve", "--listen", $"http://{NetworkOfHosts.AddressOf(1)}:0", "--insecure", "--json");
        long before = network.BytesSentBy(0);

        Outcome outcome = await JoinAsync(network, holder, 2, "dir:" + temp["copy"], "--relay");

        using JsonDocument report = JsonDocument.Parse(outcome.Output);
        Assert.Equal(Bytes, report.RootElement.GetProperty("relayed_bytes").GetInt64());
        Assert.InRange(network.BytesSentBy(0) - before, 0, Bytes / 16);
        ServeAndJoinTests.AssertSame(temp["model"], temp["copy"]);
    }

    [Theory]
    [InlineData("--relay", "--to", "null")]
    [InlineData("--relay", "--repeat", "2")]
    [InlineData("--relay-time", "5")]
    public async Task Join_RelayOfWhatCannotBeRelayed_IsBadUsage(params string[] arguments)
        => Assert.Equal(2, (await Engine.RunAsync(["join", "--metas-url", "http://127.0.0.1:1/v1/metas", .. arguments])).ExitCode);

    private static NetworkOfHosts CreateOrSkip(int hosts, int firstMegabits)
    {
        if (NetworkOfHosts.TryCreate(hosts, firstMegabits, out string? whyNot) is NetworkOfHosts network)
        {
            return network;
        }
        Assert.Skip(whyNot!);
        return null;
    }

    private static Task<Holder> ServeAsync(NetworkOfHosts network, string directory)
        => Holder.StartAsync(network.On(0), "serve", "--checkpoint", "m=" + directory, "--listen", $"http://{NetworkOfHosts.AddressOf(0)}:0", "--insecure", "--json");

    // Hosts that are namespaces of one kernel could reach each other's memory: --transport tcp is what keeps them apart.
    private static Engine Start(NetworkOfHosts network, Holder holder, int host, string to, params string[] more)
        => Engine.StartAs(network.On(host), ["join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--to", to, "--require-verify", .. more]);

    private static async Task<Outcome> JoinAsync(NetworkOfHosts network, Holder holder, int host, string to, params string[] more)
    {
        await using Engine join = Start(network, holder, host, to, ["--json", .. more]);
        return (await join.EndAsync()).Succeeded();
    }

    private static Task<string> InTransferAsync(Engine join) => join.WaitForLineAsync(line => line.StartsWith("transfer:", StringComparison.Ordinal));

    private static double Seconds(Outcome outcome)
    {
        using JsonDocument report = JsonDocument.Parse(outcome.Output);
        return report.RootElement.GetProperty("seconds").GetDouble();
    }

    private static bool IsVerified(Outcome outcome)
    {
        using JsonDocument report = JsonDocument.Parse(outcome.Output);
        return report.RootElement.GetProperty("verified").GetBoolean();
    }
}
