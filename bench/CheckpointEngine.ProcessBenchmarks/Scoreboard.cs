namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>The figures with their limits beside them.</summary>
internal sealed class Scoreboard
{
    private readonly record struct Row(string Benchmark, string Name, string Figure, string Limit, bool? Held, string Remark);

    private readonly List<Row> _rows = [];
    private string _benchmark = "";

    internal void Begin(string benchmark)
    {
        _benchmark = benchmark;
        Console.WriteLine($"\n== {benchmark}");
    }

    /// <summary>A figure for information.</summary>
    internal void Note(string name, string figure, string remark = "") => _rows.Add(new Row(_benchmark, name, figure, "", null, remark));

    /// <summary>A figure that must stay below its limit.</summary>
    internal void Below(string name, double figure, double limit, string unit, string remark = "")
        => _rows.Add(new Row(_benchmark, name, $"{figure:0.00} {unit}", $"< {limit:0.##} {unit}", figure < limit, remark));

    /// <summary>A ratio that must reach its limit.</summary>
    internal void AtLeast(string name, double ratio, double limit, string remark = "")
        => _rows.Add(new Row(_benchmark, name, $"{ratio:0.00}", $">= {limit:0.00}", ratio >= limit, remark));

    internal void PrintLatest() => Print([.. _rows.Where(row => row.Benchmark == _benchmark)]);

    /// <summary>Prints which limits were missed.</summary>
    /// <returns>Whether all were held.</returns>
    internal bool PrintVerdict()
    {
        Row[] missed = [.. _rows.Where(row => row.Held == false)];
        int limits = _rows.Count(row => row.Held is not null);
        Console.WriteLine($"\n{limits - missed.Length} of {limits} limits held");
        foreach (Row row in missed)
        {
            Console.WriteLine($"missed: {row.Benchmark}, {row.Name}: {row.Figure}, limit {row.Limit}");
        }
        return missed.Length == 0;
    }

    private static void Print(Row[] rows)
    {
        int name = rows.Max(row => row.Name.Length), figure = rows.Max(row => row.Figure.Length), limit = rows.Max(row => row.Limit.Length);
        foreach (Row row in rows)
        {
            string verdict = row.Held switch { true => "held", false => "MISSED", null => "" };
            Console.WriteLine($"{row.Name.PadRight(name)}  {row.Figure.PadLeft(figure)}  {row.Limit.PadRight(limit)}  {verdict,-6}  {row.Remark}".TrimEnd());
        }
    }
}
