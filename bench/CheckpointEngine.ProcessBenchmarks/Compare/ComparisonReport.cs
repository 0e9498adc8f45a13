using System.Text;

namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>The comparison as tables, for a terminal and as markdown, and with a plot.</summary>
/// <param name="results">What was measured.</param>
/// <param name="machine">The machine, in a line.</param>
/// <param name="command">What makes it again.</param>
/// <param name="time">How long it took.</param>
/// <param name="attachLine">What attaching came to; null when it was not measured.</param>
/// <param name="remarks">What is not in it, and why.</param>
internal sealed class ComparisonReport(ComparisonResults results, string machine, string command, TimeSpan time, string? attachLine, IReadOnlyList<string> remarks)
{
    private const string How =
        "GiB/s: median over the passes (lowest to highest), then the ratio to the best row of the way under \"limit\", a median of each pass's own ratio. "
        + "A block of the given size is moved again and again, out of one buffer and into one of that size, which small ones keep in the processor's caches; "
        + "at 1 GiB it is all of the memory once. \"fresh\": into memory that nobody has touched; mapping it and its page faults are inside the time. Joins move a whole "
        + "checkpoint, unverified.";

    internal void Print()
    {
        foreach (string plane in Planes())
        {
            string[][] cells = [[plane, .. BlockSizes.All.Select(BlockSizes.Format), "limit"], .. Rows(plane)];
            int[] widths = [.. Enumerable.Range(0, cells[0].Length).Select(column => cells.Max(row => row[column].Length))];
            Console.WriteLine();
            foreach (string[] row in cells)
            {
                Console.WriteLine(string.Join("  ", row.Select((cell, column) => cell.PadRight(widths[column]))).TrimEnd());
            }
        }
        Console.WriteLine();
        foreach (string remark in attachLine is null ? remarks : [attachLine, .. remarks])
        {
            Console.WriteLine(remark);
        }
        Console.WriteLine();
    }

    /// <summary>Writes <c>compare.md</c> and <c>compare.svg</c>.</summary>
    internal void Write(string directory)
    {
        Directory.CreateDirectory(directory);
        string markdown = Path.Combine(directory, "compare.md"), plot = Path.Combine(directory, "compare.svg");
        File.WriteAllText(markdown, ToMarkdown());
        File.WriteAllText(plot, new ComparisonPlot(results, attachLine).ToSvg());
        Console.WriteLine($"written: {markdown}, {plot}");
    }

    private string ToMarkdown()
    {
        var text = new StringBuilder();
        text.AppendLine("# Comparison").AppendLine();
        text.AppendLine($"`{command}`: passes: {results.DonePasses}, everything in turns within each, {time.TotalSeconds:0} s. {char.ToUpperInvariant(machine[0])}{machine[1..]}.").AppendLine();
        text.AppendLine(How).AppendLine();
        text.AppendLine("![the best variant of each](compare.svg)").AppendLine();
        foreach (string plane in Planes())
        {
            text.AppendLine($"| {plane} | {string.Join(" | ", BlockSizes.All.Select(BlockSizes.Format))} | limit |");
            text.AppendLine($"| --- |{string.Concat(BlockSizes.All.Select(_ => " --- |"))} --- |");
            foreach (string[] row in Rows(plane))
            {
                text.AppendLine($"| {string.Join(" | ", row)} |");
            }
            text.AppendLine();
        }
        foreach (string remark in attachLine is null ? remarks : [attachLine, .. remarks])
        {
            text.AppendLine($"* {remark.ReplaceLineEndings(" ")}");
        }
        return text.ToString();
    }

    private IEnumerable<string> Planes() => results.Contenders.Select(contender => contender.Plane).Distinct();

    private IEnumerable<string[]> Rows(string plane)
        => results.Contenders.Where(contender => contender.Plane == plane && IsShown(contender))
            .Select(contender => (string[])[contender.Name, .. BlockSizes.All.Select(block => Cell(contender, block)), contender.IsTime ? "" : contender.Limit]);

    // Other people's tools that are not here are told of apart; what this build lacks has a row that says so.
    private static bool IsShown(Contender contender) => contender.Missing is null || contender.IsOurs;

    private string Cell(Contender contender, long block)
    {
        double[] figures = results.Figures(contender, block);
        if (figures.Length == 0)
        {
            return contender.Missing is string reason && contender.Takes(block) ? reason : "";
        }
        string format = contender.IsTime ? "0.0" : "0.00";
        string figure = $"{Statistics.Median(figures).ToString(format, null)}{(contender.IsTime ? " ms" : "")} ({Statistics.Range(figures, format)})";
        double[] ratios = contender.IsTime ? [] : results.Ratios(contender, block, contender.Limit, block);
        return ratios.Length == 0 ? figure : $"{figure} {Statistics.Median(ratios):0.00}";
    }
}
