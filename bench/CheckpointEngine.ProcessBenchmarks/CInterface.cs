using System.Text.Json;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>What the C interface costs, measured by a C program (<c>bench/abi/abi.c</c>) against artifacts/lib.</summary>
internal static class CInterface
{
    private const int CreateRuns = 21;
    private const int JoinRuns = 15;
    private const int RegisterGib = 4;

    internal static Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        string library = Path.Combine(bench.Root, "artifacts", "lib", "libcheckpoint_engine.so");
        string program = bench.CompileC("abi", "abi");

        double[] create = [.. Enumerable.Range(0, CreateRuns + 1).Select(_ => Numbers("create")[0]).Skip(1)];
        scoreboard.Below("dlopen and ce_server_create, fresh process", Statistics.Median(create), 8, "ms", $"median of {CreateRuns}, {Statistics.Range(create, "0.0")}");

        double[] calls = Numbers("calls");
        scoreboard.Below("ce_checkpoint_tensor", calls[0], 100, "ns", "of 139,600 tensors; medians of 21 batches");
        scoreboard.Below("ce_checkpoint_find", calls[1], 100, "ns");
        scoreboard.Below("ce_join_poll", calls[2], 100, "ns");

        double[] register = Numbers("register", $"{RegisterGib}");
        scoreboard.Below($"ce_server_register_tensors of {RegisterGib} GiB in place", register[0], 5, "ms", $"median of 11; {register[1]:0} page faults in all of them");

        using var holder = new HolderProcess(bench, bench.GetCheckpoint(), "--hold", "anon");
        var ratios = new List<double>();
        var ours = new List<double>();
        var command = new List<double>();
        Numbers("join", holder.MetasUrl);
        holder.JoinToNull();                        // all digests are made now
        for (int run = 0; run < JoinRuns; run++)
        {
            double c = Numbers("join", holder.MetasUrl)[0];
            double managed = holder.JoinToNull();
            ours.Add(c);
            command.Add(managed);
            ratios.Add(managed / c);
        }
        scoreboard.Note($"join of {bench.Options.Gib:0.#} GiB to nowhere through C", $"{Statistics.Median(ours) * 1e3:0} ms", Statistics.Range([.. ours.Select(s => s * 1e3)], "0"));
        scoreboard.Note("the same by the command, C#", $"{Statistics.Median(command) * 1e3:0} ms", Statistics.Range([.. command.Select(s => s * 1e3)], "0"));
        scoreboard.AtLeast("rate through C / rate of the command", Statistics.Median(ratios), 0.98, $"medians of {JoinRuns} pairs, {Statistics.Range(ratios, "0.00")}");
        return Task.CompletedTask;

        double[] Numbers(params ReadOnlySpan<string> words)
            => [.. Workbench.Run(program, [library, .. words]).Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(double.Parse)];
    }

    private static double JoinToNull(this HolderProcess holder)
    {
        using JsonDocument report = JsonDocument.Parse(Workbench.Run(holder.Command, "join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--to", "null", "--require-verify", "--json"));
        return report.RootElement.GetProperty("seconds").GetDouble();
    }
}
