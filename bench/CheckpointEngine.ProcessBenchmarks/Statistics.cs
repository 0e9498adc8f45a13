namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>Of a few samples on a noisy machine.</summary>
internal static class Statistics
{
    internal static double Median(IEnumerable<double> samples)
    {
        double[] sorted = [.. samples.Order()];
        return sorted.Length == 0 ? double.NaN : (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }

    /// <summary>Where the median lies with 95 % confidence, by the ranks of the samples: nothing is supposed of how they are spread.</summary>
    internal static (double Low, double High) MedianInterval(IEnumerable<double> samples)
    {
        double[] sorted = [.. samples.Order()];
        int below = Math.Max(0, (int)Math.Floor((sorted.Length - (1.96 * Math.Sqrt(sorted.Length))) / 2) - 1);
        return (sorted[below], sorted[sorted.Length - 1 - below]);
    }

    /// <summary>Lowest to highest, to show how much the machine moved under the benchmark.</summary>
    internal static string Range(IEnumerable<double> samples, string format)
    {
        double[] sorted = [.. samples.Order()];
        return sorted.Length == 0 ? "" : $"{sorted[0].ToString(format, null)} to {sorted[^1].ToString(format, null)}";
    }
}
