namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>Of a few samples on a noisy machine.</summary>
internal static class Statistics
{
    internal static double Median(IEnumerable<double> samples)
    {
        double[] sorted = [.. samples.Order()];
        return sorted.Length == 0 ? double.NaN : (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }

    /// <summary>Lowest to highest, to show how much the machine moved under the benchmark.</summary>
    internal static string Range(IEnumerable<double> samples, string format)
    {
        double[] sorted = [.. samples.Order()];
        return sorted.Length == 0 ? "" : $"{sorted[0].ToString(format, null)} to {sorted[^1].ToString(format, null)}";
    }
}
