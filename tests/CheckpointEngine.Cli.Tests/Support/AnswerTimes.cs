using System.Globalization;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>How long answers took.</summary>
internal sealed record AnswerTimes(int Count, TimeSpan Median, TimeSpan NinetyNinth, TimeSpan Slowest)
{
    /// <summary>Of at least one.</summary>
    public static AnswerTimes Of(IReadOnlyCollection<TimeSpan> answers)
    {
        TimeSpan[] sorted = [.. answers.Order()];
        return new AnswerTimes(sorted.Length, sorted[sorted.Length / 2], sorted[sorted.Length * 99 / 100], sorted[^1]);
    }

    public override string ToString()
        => string.Create(CultureInfo.InvariantCulture, $"{Median.TotalMilliseconds:0.0} ms median, {NinetyNinth.TotalMilliseconds:0.0} p99, {Slowest.TotalMilliseconds:0.0} slowest of {Count}");
}
