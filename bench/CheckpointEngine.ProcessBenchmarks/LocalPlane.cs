using CheckpointEngine.ProcessBenchmarks.Compare;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// Joins by the memory of the same host: attached; copied out of a mapping beside memcpy; read out of a process beside process_vm_readv. Ours and the
/// limit take turns within a pass, with as many threads; a ratio is the median of the passes' own.
/// </summary>
internal static class LocalPlane
{
    private const int AttachGib = 8;
    private const int AttachRuns = 11;
    private const int Rounds = 4;               // the first into fresh memory

    internal static Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        Attach(bench, scoreboard);
        using var copy = new CopyProgram(bench);
        Copy(bench, scoreboard, copy);
        return Task.CompletedTask;
    }

    private static void Attach(Workbench bench, Scoreboard scoreboard)
    {
        using var holder = new HolderProcess(bench, bench.GetCheckpoint(AttachGib), "--digest", "none", "--pin", "none");
        var milliseconds = new List<double>();
        long bytes = 0;
        for (int run = 0; run <= AttachRuns; run++)
        {
            JoinResult join = holder.Join(1, verify: false, "local");
            bytes = join.AttachedBytes == join.Bytes ? join.Bytes : throw new BenchmarkFailedException($"{join.AttachedBytes:N0} of {join.Bytes:N0} bytes were attached");
            if (run != 0)
            {
                milliseconds.Add(join.Seconds[0] * 1e3);
            }
        }
        scoreboard.Below($"attach {AttachGib} GiB, metas to addressable", Statistics.Median(milliseconds), 20, "ms", $"median of {AttachRuns}, {Statistics.Range(milliseconds, "0.0")}");

        // Both have touched every page then; pages that they share count once.
        using var digests = new HolderProcess(bench, bench.GetCheckpoint(AttachGib), "--pin", "none");
        double full = digests.Join(1, verify: true, "local").Seconds[0];
        using ChildProcess joiner = ChildProcess.Start(bench.Command,
            ["join", "--metas-url", digests.MetasUrl, "--transport", "local", "--require-verify", "--serve", "--listen", "http://127.0.0.1:0", "--pin", "none", "--json"], Workbench.LongestServer);
        joiner.WaitForLine("\"ready\"", TimeSpan.FromMinutes(2));
        double share = (ProportionalBytes(digests.Id) + ProportionalBytes(joiner.Id)) / bytes;
        joiner.Terminate();
        scoreboard.Note("attached and read through once, with its digests checked", $"{full * 1e3:0} ms", "page tables are made on the way");
        Directory.Delete(bench.GetCheckpoint(AttachGib), recursive: true);      // makes room
        scoreboard.Below("memory of holder and attached joiner / checkpoint", share, 1.05, "", "Pss of both, every page touched by both");
    }

    private static void Copy(Workbench bench, Scoreboard scoreboard, CopyProgram copy)
    {
        int threads = Environment.ProcessorCount;
        long block = BlockSizes.Whole / threads;         // of one call: memcpy is at its best with large ones
        using var memfd = new HolderProcess(bench, bench.GetCheckpoint(), "--hold", "memfd");
        using var anon = new HolderProcess(bench, bench.GetCheckpoint(), "--hold", "anon");
        long bytes = memfd.Join(1, verify: true, "local", copy: true).Bytes;      // every digest is there now
        anon.Join(1, verify: true, "local");
        var rates = new Dictionary<string, List<double>>();
        for (int pass = 0; pass < bench.Options.Passes; pass++)
        {
            Action[] steps =
            [
                () => Add("memcpy", "memcpy fresh", copy.Memcpy("memfd", block, threads, fresh: false, bytes, Rounds - 1), copy.Memcpy("memfd", block, threads, fresh: true, bytes, 1)),
                () => Join("copy out of a memfd", memfd, verify: false),
                () => Join("copy out of a memfd, verified", memfd, verify: true),
                () => Add("process_vm_readv", "process_vm_readv fresh", copy.Read(block, threads, fresh: false, bytes, Rounds - 1), copy.Read(block, threads, fresh: true, bytes, 1)),
                () => Join("copy out of a process", anon, verify: false),
            ];
            foreach (Action step in pass % 2 == 0 ? steps : steps.Reverse())
            {
                step();
            }
        }
        foreach ((string name, List<double> all) in rates)
        {
            scoreboard.Note(name, $"{Statistics.Median(all):0.00} GiB/s", Statistics.Range(all, "0.00"));
        }
        Ratio("copy out of a memfd / memcpy, same threads", "copy out of a memfd", "memcpy", 0.9);
        Ratio("the same into fresh memory", "copy out of a memfd fresh", "memcpy fresh", 0.9);
        Ratio("verified / unverified", "copy out of a memfd, verified", "copy out of a memfd", 1 - 0.35);
        Ratio("copy out of a process / process_vm_readv, same threads", "copy out of a process", "process_vm_readv", 0.95);

        void Join(string name, HolderProcess holder, bool verify)
        {
            JoinResult join = holder.Join(Rounds, verify, "local", copy: true);
            Add(name, name + " fresh", Contender.ToRate(bytes, join.Seconds.Skip(1)), Contender.ToRate(bytes, join.Seconds.Take(1)));
        }

        void Add(string warm, string fresh, double warmRate, double freshRate)
        {
            foreach ((string name, double rate) in ((string, double)[])[(warm, warmRate), (fresh, freshRate)])
            {
                if (!rates.TryGetValue(name, out List<double>? all))
                {
                    rates.Add(name, all = []);
                }
                all.Add(rate);
            }
        }

        void Ratio(string name, string ours, string limit, double least)
        {
            double[] ratios = [.. rates[ours].Zip(rates[limit], (a, b) => a / b)];
            scoreboard.AtLeast(name, Statistics.Median(ratios), least, Statistics.Range(ratios, "0.00"));
        }
    }

    // Source: proc_pid_smaps(5).
    private static double ProportionalBytes(int process)
        => double.Parse(File.ReadLines($"/proc/{process}/smaps_rollup").First(line => line.StartsWith("Pss:", StringComparison.Ordinal)).Split(' ', StringSplitOptions.RemoveEmptyEntries)[1]) * 1024;
}
