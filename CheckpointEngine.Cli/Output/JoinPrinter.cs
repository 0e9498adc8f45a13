using System.Text.Json;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Cli.Output;

/// <summary>Prints what a join did.</summary>
internal static class JoinPrinter
{
    /// <param name="report">The engine's report.</param>
    /// <param name="metasSeconds">What fetching the metas took: the engine was handed them and cannot know.</param>
    /// <param name="json">One JSON document instead of lines and a table.</param>
    /// <param name="update">The update of an inference server that followed, for the document.</param>
    public static void Print(JoinReport report, double metasSeconds, bool json, InferenceUpdateReport? update = null)
    {
        bool repeated = report.Rounds.Count > 1;
        // Only the first round had to fetch metas; the report tells the last one's phases.
        JoinRound[] rounds = [.. report.Rounds.Select((round, index)
            => index == 0 ? round with { Phases = round.Phases with { Metas = round.Phases.Metas + metasSeconds } } : round)];
        JoinPhases phases = repeated ? report.Phases : report.Phases with { Metas = report.Phases.Metas + metasSeconds };
        double seconds = repeated ? report.Seconds : report.Seconds + metasSeconds;
        double gibPerSecond = seconds > 0 ? report.Bytes / seconds / (1L << 30) : 0;
        foreach (string warning in report.Warnings)
        {
            Stderr.Warning(warning);
        }
        if (report.UnverifiedReason == "disabled")   // any other reason the engine has logged
        {
            Stderr.Warning($"'{report.Checkpoint}' was not verified: disabled by --no-verify");
        }
        if (json)
        {
            var document = new JoinJson(report.Checkpoint, report.Bytes, report.Tensors, Round(seconds), Round(gibPerSecond), report.Verified,
                report.UnverifiedReason, report.Transports, report.RdmaPairs.Count == 0 ? null : report.RdmaPairs, report.AttachedBytes == 0 ? null : report.AttachedBytes,
                report.ReusedBytes == 0 ? null : report.ReusedBytes, report.RetriedBytes == 0 ? null : report.RetriedBytes, report.RelayedBytes == 0 ? null : report.RelayedBytes, [.. report.Planes.Select(PlaneJson.Of)], Convert(phases), repeated ? [.. rounds.Select(Convert)] : null,
                update is null ? null : UpdatePrinter.Document(update), update is null ? null : Round(metasSeconds + update.TotalSeconds));
            Console.Out.WriteLine(JsonSerializer.Serialize(document, OutputJson.Default.JoinJson));
            Console.Out.Flush();
            return;
        }
        Console.Out.WriteLine($"joined '{report.Checkpoint}': {Quantity.Count(report.Tensors)} tensors, {Quantity.Bytes(report.Bytes)} in {Quantity.Seconds(seconds)} s, "
            + $"{gibPerSecond:0.00} GiB/s, {(report.Verified ? "every byte verified" : $"not verified ({report.UnverifiedReason})")}");
        PrintPhases(report.Bytes, repeated ? rounds : [new JoinRound(seconds, phases)]);
        foreach ((string transport, long bytes) in report.Transports)
        {
            Console.Out.WriteLine($"over {transport}: {Quantity.Bytes(bytes)}{(transport == "local" && report.AttachedBytes != 0 ? $", {Quantity.Bytes(report.AttachedBytes)} of them attached, not copied" : transport == "tcp" && report.Planes.Any(plane => plane.Encrypted) ? ", encrypted" : "")}");
        }
        if (report.RelayedBytes != 0)
        {
            Console.Out.WriteLine($"from other joins: {Quantity.Bytes(report.RelayedBytes)}, padding included");
        }
        if (report.ReusedBytes != 0)
        {
            Console.Out.WriteLine($"not read: {Quantity.Bytes(report.ReusedBytes)} that were here already, with the same digests");
        }
        foreach (IGrouping<string, OwnerPlane> planes in report.Planes.Where(plane => plane.Reason is not null).GroupBy(plane => plane.Reason!))
        {
            int[] ranks = [.. planes.Select(plane => plane.Rank)];
            Console.Out.WriteLine($"{(ranks.Length == 1 ? $"rank {ranks[0]}" : $"{ranks.Length} ranks from {ranks[0]} on")}: {planes.First().Transport}; {(planes.Key.StartsWith("not ", StringComparison.Ordinal) ? "" : "local: ")}{planes.Key}");
        }
        Console.Out.Flush();
    }

    private static void PrintPhases(long bytes, JoinRound[] rounds)
    {
        string[] titles = rounds.Length == 1 ? [">seconds"] : [.. rounds.Select((_, round) => $">round {round + 1}")];
        var table = new TextTable(["phase", .. titles]);
        table.Add(["metas", .. rounds.Select(round => Quantity.Seconds(round.Phases.Metas))]);
        table.Add(["plan", .. rounds.Select(round => Quantity.Seconds(round.Phases.Plan))]);
        table.Add(["allocate", .. rounds.Select(round => Quantity.Seconds(round.Phases.Allocate))]);
        table.Add(["transfer", .. rounds.Select(round => Quantity.Seconds(round.Phases.Transfer))]);
        table.Add(["verify", .. rounds.Select(round => Quantity.Seconds(round.Phases.Verify))]);
        table.Add(["write", .. rounds.Select(round => Quantity.Seconds(round.Phases.Write))]);
        table.Add(["all", .. rounds.Select(round => Quantity.Seconds(round.Seconds))]);
        table.Add(["GiB/s", .. rounds.Select(round => $"{(round.Seconds > 0 ? bytes / round.Seconds / (1L << 30) : 0):0.00}")]);
        table.Print(Console.Out);
    }

    private static RoundJson Convert(JoinRound round) => new(Round(round.Seconds), Convert(round.Phases));

    private static PhasesJson Convert(JoinPhases phases)
        => new(Round(phases.Metas), Round(phases.Plan), Round(phases.Allocate), Round(phases.Transfer), Round(phases.Verify), Round(phases.Write));

    // Clocks here resolve no more than microseconds worth telling.
    private static double Round(double value) => Math.Round(value, 6);
}
