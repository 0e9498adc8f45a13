namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>What was measured, by row, size and pass.</summary>
internal sealed class ComparisonResults(IReadOnlyList<Contender> contenders, int passes)
{
    private readonly Dictionary<(Contender Contender, long Block), double[]> _figures = [];

    internal IReadOnlyList<Contender> Contenders => contenders;

    /// <summary>As many as were asked for.</summary>
    internal int Passes => passes;

    /// <summary>As many as there was time for.</summary>
    internal int DonePasses { get; set; }

    internal void Add(Contender contender, long block, int pass, double figure)
    {
        if (!_figures.TryGetValue((contender, block), out double[]? figures))
        {
            _figures.Add((contender, block), figures = new double[passes]);
            Array.Fill(figures, double.NaN);
        }
        figures[pass] = figure;
    }

    /// <summary>The passes that gave a figure; empty when none did.</summary>
    internal double[] Figures(Contender contender, long block)
        => _figures.TryGetValue((contender, block), out double[]? figures) ? [.. figures.Where(figure => !double.IsNaN(figure))] : [];

    /// <summary>The row of a family that was best at a size, by its median (the best of each pass would be the luckiest); null when none has a figure.</summary>
    internal Contender? Best(string family, long block)
        => contenders.Where(contender => contender.Family == family && Figures(contender, block).Length != 0)
            .MaxBy(contender => Statistics.Median(Figures(contender, block)));

    /// <summary>A row beside another way's best row, in each pass that has both.</summary>
    internal double[] Ratios(Contender contender, long block, string family, long blockOfFamily)
        => Best(family, blockOfFamily) is Contender best
            ? [.. Enumerable.Range(0, passes).Select(pass => At(contender, block, pass) / At(best, blockOfFamily, pass)).Where(ratio => !double.IsNaN(ratio))]
            : [];

    private double At(Contender contender, long block, int pass) => _figures.TryGetValue((contender, block), out double[]? figures) ? figures[pass] : double.NaN;
}
