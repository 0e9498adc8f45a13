using System.Globalization;

namespace CheckpointEngine.Fuzz;

/// <summary>
/// A table of how long each target was fuzzed without a finding, all runs together, kept in the tree: "an hour each" is a sum over many evenings. Tab between columns: target, seconds of processor's time,
/// executions, the date of the last run.
/// </summary>
/// <param name="path">The file; made by the first run.</param>
internal sealed class RunningTotals(string path)
{
    private const string Head = "target\tseconds\texecutions\tlast";
    private static readonly TimeSpan s_pause = TimeSpan.FromMilliseconds(20);       // while another run writes

    /// <summary>Adds a run to its target's row. Several processes may do so at once.</summary>
    /// <exception cref="FormatException">The file is not such a table.</exception>
    internal void Add(string target, TimeSpan processor, long executions)
    {
        using FileStream file = Open();
        using var reader = new StreamReader(file);
        var rows = new SortedDictionary<string, (double Seconds, long Executions, string Last)>(StringComparer.Ordinal);
        string? head = reader.ReadLine();
        if (head is not null and not Head)
        {
            throw new FormatException($"{path} begins with '{head}', not with '{Head}'");
        }
        while (reader.ReadLine() is { Length: > 0 } line)
        {
            string[] words = line.Split('\t');
            rows[words[0]] = (double.Parse(words[1], CultureInfo.InvariantCulture), long.Parse(words[2], CultureInfo.InvariantCulture), words[3]);
        }
        (double seconds, long before, _) = rows.GetValueOrDefault(target);
        rows[target] = (seconds + processor.TotalSeconds, before + executions, DateTime.UtcNow.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture));
        file.SetLength(0);
        using var writer = new StreamWriter(file) { NewLine = "\n" };
        writer.WriteLine(Head);
        foreach ((string name, (double sum, long count, string last)) in rows)
        {
            writer.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name}\t{sum:0.0}\t{count}\t{last}"));
        }
    }

    private FileStream Open()
    {
        while (true)
        {
            try
            {
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException busy) when (busy is not (DirectoryNotFoundException or PathTooLongException))
            {
                Thread.Sleep(s_pause);
            }
        }
    }
}
