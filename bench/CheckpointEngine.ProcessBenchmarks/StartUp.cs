namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>How long the command takes to begin.</summary>
internal static class StartUp
{
    private const int VersionRuns = 21;
    private const int ServeRuns = 7;

    internal static Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string spawn = bench.CompileC("pump", "spawn");
        double[] nothing = Spawn("/bin/true");
        double[] version = Spawn(bench.Command, "--version");
        scoreboard.Note("/bin/true, the cost of a process", $"{Statistics.Median(nothing):0.00} ms", Statistics.Range(nothing, "0.0"));
        scoreboard.Below("checkpoint-engine --version", Statistics.Median(version), 15, "ms", $"median of {VersionRuns}, {Statistics.Range(version, "0.0")}");

        string checkpoint = bench.GetCheckpoint();
        var ready = new List<double>();
        for (int run = 0; run <= ServeRuns; run++)
        {
            using var holder = new HolderProcess(bench, checkpoint, "--hold", "map");
            if (run != 0)                     // the first brings the program's pages into memory
            {
                ready.Add(holder.TimeToReady.TotalMilliseconds);
            }
        }
        scoreboard.Below($"serve of a mapped {bench.Options.Gib:0.#} GiB checkpoint to its ready line", Statistics.Median(ready), 100, "ms",
            $"median of {ServeRuns}, {Statistics.Range(ready, "0.0")}");
        return Task.CompletedTask;

        double[] Spawn(params ReadOnlySpan<string> command)
            => [.. Workbench.Run(spawn, [$"{VersionRuns}", .. command]).Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(double.Parse)];
    }
}
