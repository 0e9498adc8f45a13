using System.Globalization;
using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Rdma.Tests.Support;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>
/// Two holders that stand in for each other and two joiners, each on a device of its own, of which some are killed while reads are under way; who and when is drawn from a seed. Nobody tells a
/// device that the memory that it reads, or writes to, has gone with its process. CHECKPOINT_ENGINE_RDMA_CHAOS_ROUNDS and CHECKPOINT_ENGINE_RDMA_CHAOS_SEED say how many rounds (4) and the seed of the first.
/// </summary>
public sealed class ChaosTests(ITestOutputHelper output)
{
    private const int Bytes = 64 << 20;
    private const int PacketBytes = 4096;       // the guest's MTU
    private const int Holders = 2;
    private const int Joiners = 2;

    private static readonly int s_rounds = Variable("CHECKPOINT_ENGINE_RDMA_CHAOS_ROUNDS", 4);
    private static readonly int s_firstSeed = Variable("CHECKPOINT_ENGINE_RDMA_CHAOS_SEED", 2000);

    [LabFact]
    public async Task Kill_OfHoldersAndJoiners_AllOrNothing()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        string expected = SmallCheckpoint.Digest(SmallCheckpoint.Read(temp["model"]));
        for (int seed = s_firstSeed; seed < s_firstSeed + s_rounds; seed++)
        {
            var told = new List<string> { $"seed {seed}" };
            try
            {
                await RunAsync(new Random(seed), temp, expected, told);
            }
            catch (Exception broken)
            {
                throw new InvalidOperationException($"CHECKPOINT_ENGINE_RDMA_CHAOS_SEED={seed} CHECKPOINT_ENGINE_RDMA_CHAOS_ROUNDS=1: {string.Join("; ", told)}; {broken.Message}", broken);
            }
            output.WriteLine(string.Join("; ", told));
        }
    }

    private static async Task RunAsync(Random random, TempDirectory temp, string expected, List<string> told)
    {
        string hold = ((string[])["map", "anon"])[random.Next(2)];
        var holders = new List<Holder>();
        var joins = new List<ChildProcess>();
        var killed = new HashSet<int>();        // holders first, then joiners
        try
        {
            for (int holder = 0; holder < Holders; holder++)
            {
                holders.Add(await Holder.ServeAsync([holder], temp["model"], "--transport", "rdma", "--hold", hold));
            }
            long[] before = [.. Enumerable.Range(Holders, Joiners).Select(PacketsOf)];
            for (int joiner = 0; joiner < Joiners; joiner++)
            {
                joins.Add(Join(joiner));
            }
            told.Add($"--hold {hold}");
            for (int kills = random.Next(1, Holders + Joiners); kills > 0; kills--)
            {
                int victim = random.Next(Holders + Joiners);
                int watched = random.Next(Joiners);
                int packets = random.Next(1, Bytes / PacketBytes);
                if (!killed.Add(victim))
                {
                    continue;
                }
                await Ends.UntilAsync(() => ValueTask.FromResult(joins[watched].HasExited || PacketsOf(Holders + watched) >= before[watched] + packets));
                if (victim >= Holders && joins[victim - Holders].HasExited)
                {
                    continue;
                }
                told.Add($"kill {(victim < Holders ? $"holder {victim}" : $"joiner {victim - Holders}")} once joiner {watched} had {packets} packets");
                if (victim < Holders)
                {
                    holders[victim].Kill();
                }
                else
                {
                    joins[victim - Holders].Signal(ChildProcess.SigKill);
                }
            }
            bool isOneLeft = Enumerable.Range(0, Holders).Any(holder => !killed.Contains(holder));
            for (int joiner = 0; joiner < Joiners; joiner++)
            {
                Outcome outcome = await joins[joiner].EndAsync();
                told.Add($"joiner {joiner} {Check(joiner, outcome, killed.Contains(Holders + joiner), isOneLeft)}");
            }
            if (isOneLeft)
            {
                await using ChildProcess afterwards = Join(0);
                (await afterwards.EndAsync()).Succeeded();
                Assert.Equal(expected, SmallCheckpoint.Digest(SmallCheckpoint.Read(temp["copy0"])));
                Assert.Empty(PartsOf(0));
                await Ends.UntilAsync(async () => !(await ChildProcess.RunAsync("rdma", "resource", "show", "qp")).Succeeded().Output.Contains(" pid ", StringComparison.Ordinal));
            }
        }
        finally
        {
            foreach (IAsyncDisposable process in (IAsyncDisposable[])[.. joins, .. holders])
            {
                await process.DisposeAsync();
            }
            foreach (FileSystemInfo left in new DirectoryInfo(temp.Path).GetFileSystemInfos("*copy*"))     // who was killed leaves what it had
            {
                if (left is DirectoryInfo directory)
                {
                    directory.Delete(recursive: true);
                }
                else
                {
                    left.Delete();
                }
            }
        }

        ChildProcess Join(int joiner) => ChildProcess.Start(Repository.Command, ["join", .. holders.SelectMany((holder, index) => killed.Contains(index) ? (string[])[] : ["--metas-url", holder.MetasUrl]),
            "--to", "dir:" + temp[$"copy{joiner}"], "--transport", "rdma", "--devices", RdmaLab.Names([Holders + joiner]), "--require-verify", "--stall-timeout", "5", "--retry-timeout", "5", "--json"]);

        string[] PartsOf(int joiner) => [.. temp.Names.Where(name => name.StartsWith($".copy{joiner}", StringComparison.Ordinal))];

        string Check(int joiner, Outcome outcome, bool wasKilled, bool isOneLeft)
        {
            bool isThere = Directory.Exists(temp[$"copy{joiner}"]);
            if (isThere)
            {
                Assert.Equal(expected, SmallCheckpoint.Digest(SmallCheckpoint.Read(temp[$"copy{joiner}"])));
            }
            if (outcome.ExitCode == 0)
            {
                Assert.True(isThere && outcome.Json().GetProperty("verified").GetBoolean());
                return "has all";
            }
            if (wasKilled)
            {
                return isThere ? "killed with all" : "killed";
            }
            Assert.True(outcome.ExitCode == 1 && !isOneLeft, $"it gave up though it could be read on: {outcome}");
            Assert.False(isThere, "a join that failed left its directory");
            Assert.Empty(PartsOf(joiner));
            return "failed: " + Assert.Single(outcome.Errors.Split('\n', StringSplitOptions.RemoveEmptyEntries),
                line => !line.StartsWith("checkpoint-engine: warning:", StringComparison.Ordinal) && !line.StartsWith("checkpoint-engine: note:", StringComparison.Ordinal));
        }
    }

    private static long PacketsOf(int device)
        => long.Parse(File.ReadAllText($"/sys/class/infiniband/{RdmaLab.Found[device]}/ports/1/hw_counters/rcvd_pkts"), CultureInfo.InvariantCulture);

    private static int Variable(string name, int otherwise) => int.TryParse(Environment.GetEnvironmentVariable(name), NumberStyles.None, CultureInfo.InvariantCulture, out int value) ? value : otherwise;
}
