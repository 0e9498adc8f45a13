using System.Collections.Concurrent;
using System.Globalization;

namespace CheckpointEngine.Cli.Tests.Chaos;

/// <summary>
/// Holders and joiners on hosts of their own that are killed, stopped, cut off and replaced at random moments, with disks and memory that are too small. Whatever happens, a join that says that
/// it has succeeded has exactly one version's bytes, one that fails leaves nothing and says why in one line, a holder that lives has what it had before, and the next join succeeds.
/// CHECKPOINT_ENGINE_CHAOS_ROUNDS says how many rounds (20), CHECKPOINT_ENGINE_CHAOS_SEED the first one's seed: the same seed does the same to the same processes, at the same times after
/// their start. CHECKPOINT_ENGINE_CHAOS_LOG names a file that gets a line for each.
/// </summary>
public sealed class ChaosTests(ITestOutputHelper output)
{
    // A round waits more than it works.
    private const int AtOnce = 2;

    private static readonly int s_rounds = Variable("CHECKPOINT_ENGINE_CHAOS_ROUNDS", 20);
    private static readonly int s_firstSeed = Variable("CHECKPOINT_ENGINE_CHAOS_SEED", 1000);

    private readonly Lock _writing = new();

    [Fact]
    public async Task AnyFault_AtAnyMoment_OneVersionOrNothing()
    {
        using var stages = new BlockingCollection<ChaosStage>();
        try
        {
            for (int stage = 0; stage < AtOnce; stage++)
            {
                if (ChaosStage.TryCreate(out string? whyNot) is not ChaosStage made)
                {
                    Assert.Skip(whyNot!);
                    return;
                }
                stages.Add(made, TestContext.Current.CancellationToken);
            }
            var ends = new ConcurrentBag<string>();
            await Parallel.ForEachAsync(Enumerable.Range(s_firstSeed, s_rounds), new ParallelOptions { MaxDegreeOfParallelism = AtOnce, CancellationToken = TestContext.Current.CancellationToken }, async (seed, stop) =>
            {
                ChaosStage stage = stages.Take(stop);
                try
                {
                    foreach (string end in await RunAsync(seed, stage))
                    {
                        ends.Add(end);
                    }
                }
                finally
                {
                    stages.Add(stage, CancellationToken.None);
                }
            });
            Write($"{s_rounds} rounds from seed {s_firstSeed} on, {ends.Count} joins: {string.Join(", ", ends.GroupBy(end => end).OrderBy(end => end.Key).Select(end => $"{end.Count()} {end.Key}"))}");
        }
        finally
        {
            while (stages.TryTake(out ChaosStage? stage))
            {
                stage.Dispose();
            }
        }
    }

    // How its joins ended.
    private async Task<List<string>> RunAsync(int seed, ChaosStage stage)
    {
        await using var round = new ChaosRound(ChaosPlan.Of(seed), stage);
        try
        {
            await round.RunAsync();
        }
        catch (Exception broken)
        {
            Write($"FAILED {round.Told}; {broken.Message}");
            throw new InvalidOperationException($"CHECKPOINT_ENGINE_CHAOS_SEED={seed} CHECKPOINT_ENGINE_CHAOS_ROUNDS=1: {round.Told}; {broken.Message}", broken);
        }
        Write(round.Told);
        return round.Ends;
    }

    private void Write(string line)
    {
        lock (_writing)
        {
            output.WriteLine(line);
            if (Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_CHAOS_LOG") is { Length: > 0 } log)
            {
                File.AppendAllText(log, line.ReplaceLineEndings(" ") + "\n");
            }
        }
    }

    private static int Variable(string name, int otherwise) => int.TryParse(Environment.GetEnvironmentVariable(name), NumberStyles.None, CultureInfo.InvariantCulture, out int value) ? value : otherwise;
}
