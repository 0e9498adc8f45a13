using System.Collections.Concurrent;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>What each pair of engines did, a row each; at the end appended to the file that <c>CHECKPOINT_ENGINE_INTEROP_TABLE</c> names.</summary>
public sealed class InteropTable : IDisposable
{
    private const string Variable = "CHECKPOINT_ENGINE_INTEROP_TABLE";
    private const string SkipMark = "$XunitDynamicSkip$";

    private readonly ConcurrentQueue<string> _rows = [];

    /// <summary>Runs a pair; its failure, or why it is skipped, goes into the table and on.</summary>
    internal async Task RunAsync(string release, string pair, Func<Task<string>> run)
    {
        try
        {
            Add(release, pair, "pass", await run());
        }
        catch (Exception failure)
        {
            string reason = failure.Message.Split('\n')[0];
            bool skipped = reason.StartsWith(SkipMark, StringComparison.Ordinal);
            Add(release, pair, skipped ? "skip" : "FAIL", skipped ? reason[SkipMark.Length..] : reason);
            throw;
        }
    }

    public void Dispose()
    {
        if (Environment.GetEnvironmentVariable(Variable) is { Length: > 0 } file)
        {
            File.AppendAllLines(file, _rows);
        }
    }

    private void Add(string release, string pair, string outcome, string remark) => _rows.Enqueue(string.Join('\t', release, pair, outcome, remark));
}
