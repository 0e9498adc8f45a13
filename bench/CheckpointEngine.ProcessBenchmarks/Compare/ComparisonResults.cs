namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>What was measured, by row, size and pass.</summary>
internal sealed class ComparisonResults(IReadOnlyList<Contender> contenders, int passes)
{
    private readonly Dictionary<(Contender Contender, long Block), double[]> _figures = [];

    internal IReadOnlyList<Contender> Contenders => contenders;

    internal int Passes => passes;

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

    /// <summary>The row of a family that was best at a size, by its median; null when none has a figure.</summary>
    internal Contender? Best(string family, long block)
        => contenders.Where(contender => contender.Family == family && Figures(contender, block).Length != 0)
            .MaxBy(contender => Statistics.Median(Figures(contender, block)));

    /// <summary>A row beside the best row of a family, in each pass that has both.</summary>
    internal double[] Ratios(Contender contender, string family, long block, long? blockOfFamily = null)
        => Ratios(pass => At(contender, block, pass), family, blockOfFamily ?? block);

    /// <summary>The best of a family beside the best of another.</summary>
    internal double[] Ratios(string ours, string family, long block, long? blockOfFamily = null)
        => Ratios(pass => BestAt(ours, block, pass), family, blockOfFamily ?? block);

    private double[] Ratios(Func<int, double> figure, string family, long block)
        => [.. Enumerable.Range(0, passes).Select(pass => figure(pass) / BestAt(family, block, pass)).Where(ratio => !double.IsNaN(ratio))];

    private double BestAt(string family, long block, int pass)
        => contenders.Where(contender => contender.Family == family).Select(contender => At(contender, block, pass))
            .Where(figure => !double.IsNaN(figure)).DefaultIfEmpty(double.NaN).Max();

    private double At(Contender contender, long block, int pass) => _figures.TryGetValue((contender, block), out double[]? figures) ? figures[pass] : double.NaN;
}
