namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>The sizes that everything is measured at.</summary>
internal static class BlockSizes
{
    /// <summary>What a checkpoint is moved as: out of all its memory and into all of it.</summary>
    internal const long Whole = 1L << 30;

    internal static readonly long[] All = [64 << 10, 1 << 20, 16 << 20, Whole];

    internal static string Format(long bytes) => bytes switch
    {
        >= 1 << 30 => $"{bytes >> 30} GiB",
        >= 1 << 20 => $"{bytes >> 20} MiB",
        _ => $"{bytes >> 10} KiB",
    };
}
