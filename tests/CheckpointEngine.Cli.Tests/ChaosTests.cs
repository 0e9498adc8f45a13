using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.Cli.Tests;

/// <summary>
/// Holders and joiners on hosts of their own that are killed, stopped and cut off at random moments. Whatever happens, a join that says that it has succeeded has exactly one version's bytes,
/// one that fails leaves nothing and says why in one line, and a holder that lives has no more sockets than before. CHECKPOINT_ENGINE_CHAOS_ROUNDS says how many rounds
/// (20), CHECKPOINT_ENGINE_CHAOS_SEED the first one's seed: the same seed does the same to the same processes, at the same times after their start.
/// </summary>
public sealed class ChaosTests(ITestOutputHelper output)
{
    private const int Bytes = 48 << 20;        // a second of the first holder's link
    private const int Holders = 2;
    private const int Joiners = 3;

    private static readonly int s_rounds = Variable("CHECKPOINT_ENGINE_CHAOS_ROUNDS", 20);
    private static readonly int s_firstSeed = Variable("CHECKPOINT_ENGINE_CHAOS_SEED", 1000);

    [Fact]
    public async Task AnyFault_AtAnyMoment_OneVersionOrNothing()
    {
        if (NetworkOfHosts.TryCreate(Holders + Joiners, 400, out string? whyNot) is not NetworkOfHosts made)
        {
            Assert.Skip(whyNot!);
            return;
        }
        using NetworkOfHosts network = made;
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        int succeeded = 0;
        int failed = 0;
        for (int seed = s_firstSeed; seed < s_firstSeed + s_rounds; seed++)
        {
            string told = "";
            try
            {
                (int good, int bad) = await RoundAsync(network, temp, seed, line => told += line + "; ");
                succeeded += good;
                failed += bad;
            }
            catch (Exception broken)
            {
                output.WriteLine($"seed {seed}: {told}");
                throw new InvalidOperationException($"CHECKPOINT_ENGINE_CHAOS_SEED={seed}: {told}{broken.Message}", broken);
            }
            output.WriteLine($"seed {seed}: {told}");
        }
        output.WriteLine($"{s_rounds} rounds from seed {s_firstSeed} on: {succeeded} joins succeeded, each with every byte; {failed} failed and left nothing");
        Assert.True(succeeded > 0);
    }

    private static async Task<(int Succeeded, int Failed)> RoundAsync(NetworkOfHosts network, TempDirectory temp, int seed, Action<string> tell)
    {
        var random = new Random(seed);
        bool relay = random.Next(3) != 0;               // else two holders that stand in for each other
        Holder[] holders = await Task.WhenAll(Enumerable.Range(0, relay ? 1 : Holders).Select(host => Holder.StartAsync(network.On(host),
            "serve", "--checkpoint", "m=" + temp["model"], "--listen", $"http://{NetworkOfHosts.AddressOf(host)}:0", "--insecure", "--drain-timeout", "2", "--json")));
        var joins = new List<Engine>();
        try
        {
            int[] before = [.. holders.Select(SocketsOf)];
            tell(relay ? "relay" : "two holders");
            for (int joiner = 0; joiner < Joiners; joiner++)
            {
                joins.Add(Engine.StartAs(network.On(Holders + joiner), ["join", .. holders.SelectMany(holder => (string[])["--metas-url", holder.MetasUrl]), "--transport", "tcp", "--to", "dir:" + temp[$"copy{joiner}"],
                    "--require-verify", "--stall-timeout", "3", "--retry-timeout", "3", "--timeout", "45", "--json", .. relay ? (string[])["--relay", "--relay-time", "3"] : []]));
            }
            var doomed = new HashSet<Engine>();
            bool[] isHolderWhole = [.. holders.Select(_ => true)];
            for (int fault = random.Next(1, 4); fault > 0; fault--)
            {
                await Task.Delay(random.Next(100, 1200), TestContext.Current.CancellationToken);
                int victim = random.Next(holders.Length + Joiners);
                Engine engine = victim < holders.Length ? holders[victim].Engine : joins[victim - holders.Length];
                int host = victim < holders.Length ? victim : Holders + victim - holders.Length;
                string name = victim < holders.Length ? $"holder {victim}" : $"joiner {victim - holders.Length}";
                int kind = random.Next(3);
                int length = random.Next(200, 2500);
                if (engine.HasExited)
                {
                    continue;
                }
                switch (kind)
                {
                    case 0:
                        tell($"kill {name}");
                        engine.Signal(Engine.SigKill);
                        doomed.Add(engine);
                        _ = victim < holders.Length && (isHolderWhole[victim] = false);
                        break;
                    case 1:
                        tell($"stop {name} for {length} ms");
                        engine.Signal(Engine.SigStop);
                        await Task.Delay(length, TestContext.Current.CancellationToken);
                        engine.Signal(Engine.SigCont);
                        break;
                    default:
                        tell($"cut {name} off for {length} ms");
                        network.Plug(host, isIn: false);
                        await Task.Delay(length, TestContext.Current.CancellationToken);
                        network.Plug(host, isIn: true);
                        break;
                }
            }
            int succeeded = 0;
            int failed = 0;
            for (int joiner = 0; joiner < Joiners; joiner++)
            {
                Outcome outcome = await joins[joiner].EndAsync();
                string copy = temp[$"copy{joiner}"];
                if (outcome.ExitCode == 0)
                {
                    using JsonDocument report = JsonDocument.Parse(outcome.Output);
                    Assert.True(report.RootElement.GetProperty("verified").GetBoolean());
                    ServeAndJoinTests.AssertSame(temp["model"], copy);
                    succeeded++;
                }
                else if (!doomed.Contains(joins[joiner]))
                {
                    string line = outcome.FailedWithOneLine();
                    tell($"joiner {joiner} failed: {line}");
                    Assert.False(Directory.Exists(copy), "a join that failed left its directory");
                    Assert.DoesNotContain(temp.Names, left => left.StartsWith($".copy{joiner}", StringComparison.Ordinal));
                    failed++;
                }
                else
                {
                    Assert.False(Directory.Exists(copy), "a join that was killed published its directory");
                }
                Clear(temp, joiner);
            }
            for (int holder = 0; holder < holders.Length; holder++)
            {
                if (isHolderWhole[holder])
                {
                    for (long start = Stopwatch.GetTimestamp(); SocketsOf(holders[holder]) > before[holder] && Stopwatch.GetElapsedTime(start) < Engine.Patience;)
                    {
                        await Task.Delay(50, TestContext.Current.CancellationToken);      // connections of hosts that were cut off end by their timeouts
                    }
                    Assert.InRange(SocketsOf(holders[holder]), 1, before[holder]);
                }
            }
            return (succeeded, failed);
        }
        finally
        {
            foreach (IAsyncDisposable process in (IAsyncDisposable[])[.. joins, .. holders])
            {
                await process.DisposeAsync();
            }
        }
    }

    // What a killed join left is for the next one to the same place: this one's has none.
    private static void Clear(TempDirectory temp, int joiner)
    {
        foreach (string left in temp.Names.Where(name => name == $"copy{joiner}" || name.StartsWith($".copy{joiner}.", StringComparison.Ordinal)))
        {
            if (Directory.Exists(temp[left]))
            {
                Directory.Delete(temp[left], recursive: true);
            }
            else
            {
                File.Delete(temp[left]);
            }
        }
    }

    // Not all descriptors: a command that is compiled as it runs opens more and more files.
    private static int SocketsOf(Holder holder)
        => Directory.GetFiles($"/proc/{holder.Engine.ProcessId}/fd").Count(path => new FileInfo(path).LinkTarget?.StartsWith("socket:", StringComparison.Ordinal) == true);

    private static int Variable(string name, int otherwise) => int.TryParse(Environment.GetEnvironmentVariable(name), NumberStyles.None, CultureInfo.InvariantCulture, out int value) ? value : otherwise;
}
