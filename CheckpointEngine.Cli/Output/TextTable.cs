namespace CheckpointEngine.Cli.Output;

/// <summary>A table in plain text: columns as wide as their widest cell, numbers to the right.</summary>
/// <param name="headers">Column titles; one that starts with '&gt;' aligns its column to the right.</param>
internal sealed class TextTable(params string[] headers)
{
    private readonly List<string[]> _rows = [];

    public void Add(params string[] cells) => _rows.Add(cells);

    public void Print(TextWriter output)
    {
        string[] titles = [.. headers.Select(header => header.TrimStart('>'))];
        int[] widths = [.. titles.Select((title, column) => _rows.Select(row => row[column].Length).Append(title.Length).Max())];
        PrintRow(output, titles, widths);
        foreach (string[] row in _rows)
        {
            PrintRow(output, row, widths);
        }
    }

    private void PrintRow(TextWriter output, string[] cells, int[] widths)
    {
        string line = string.Join("  ", cells.Select((cell, column)
            => headers[column].StartsWith('>') ? cell.PadLeft(widths[column]) : cell.PadRight(widths[column])));
        output.WriteLine(line.TrimEnd());
    }
}
