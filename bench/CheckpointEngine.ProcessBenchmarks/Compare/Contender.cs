namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>One row of the comparison: a way to move bytes, in one variant.</summary>
/// <param name="Plane">The table it stands in.</param>
/// <param name="Family">The way; its best variant counts where it is a limit, and in the plot.</param>
/// <param name="Variant">What sets it apart within the family; may be empty.</param>
/// <param name="Limit">The family that bounds it: its own where it is the bound itself.</param>
/// <param name="Measure">Takes the size of a block and gives GiB/s, or milliseconds for <see cref="IsTime"/>.</param>
internal sealed record Contender(string Plane, string Family, string Variant, string Limit, Func<long, double> Measure)
{
    internal bool IsOurs { get; init; }

    /// <summary>The figure is a time: less is better, and no ratio is made.</summary>
    internal bool IsTime { get; init; }

    /// <summary>The sizes that it can be measured at.</summary>
    internal Func<long, bool> Takes { get; init; } = static _ => true;

    /// <summary>Why it is not measured; null when it is.</summary>
    internal string? Missing { get; init; }

    internal string Name => Variant.Length == 0 ? Family : $"{Family}, {Variant}";

    /// <summary>GiB/s of so many bytes in the median of some rounds.</summary>
    internal static double ToRate(long bytes, IEnumerable<double> seconds) => bytes / Statistics.Median(seconds) / (1L << 30);
}
