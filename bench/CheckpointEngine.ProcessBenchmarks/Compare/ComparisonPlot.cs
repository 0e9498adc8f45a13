using System.Text;

namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>Bars of the best variant of each way: a column of them for each size, a group for each plane with a scale of its own.</summary>
internal sealed class ComparisonPlot(ComparisonResults results, string? attachLine)
{
    private const int Margin = 16;
    private const int LabelWidth = 250;
    private const int PanelWidth = 190;
    private const int ValueWidth = 46;              // beside the longest bar
    private const int RowHeight = 20;
    private const int BarHeight = 13;
    private const int HeadHeight = 44;

    private readonly StringBuilder _svg = new();

    internal string ToSvg()
    {
        (string Plane, string[] Families)[] groups = [.. results.Contenders.Select(contender => contender.Plane).Distinct().Select(plane => (plane, FamiliesOf(plane)))];
        int width = (2 * Margin) + LabelWidth + (BlockSizes.All.Length * PanelWidth);
        int height = Margin + groups.Sum(group => HeadHeight + (group.Families.Length * RowHeight) + Margin) + (2 * RowHeight);
        _svg.AppendLine($$"""
            <svg xmlns="http://www.w3.org/2000/svg" width="{{width}}" height="{{height}}" viewBox="0 0 {{width}} {{height}}" role="img" aria-label="Rates of our planes beside others', by block size">
            <style>
              text { font: 12px system-ui, sans-serif; fill: #1f2328; }
              .head { font-weight: 600; font-size: 14px; } .end { text-anchor: end; } .faint { fill: #59636e; }
              .page { fill: #ffffff; } .other { fill: #9aa4af; } .limit { fill: #59636e; } .ours { fill: #0969da; }
              .range { stroke: #1f2328; stroke-width: 1; } .axis { stroke: #d1d9e0; stroke-width: 1; }
              @media (prefers-color-scheme: dark) {
                text { fill: #e6edf3; } .faint { fill: #9198a1; } .page { fill: #0d1117; } .other { fill: #545d68; }
                .limit { fill: #9198a1; } .ours { fill: #4493f8; } .range { stroke: #e6edf3; } .axis { stroke: #3d444d; }
              }
            </style>
            <rect class="page" width="{{width}}" height="{{height}}"/>
            """);
        int y = Margin;
        foreach ((string plane, string[] families) in groups)
        {
            y = AddGroup(plane, families, y) + Margin;
        }
        AddLegend(y);
        _svg.AppendLine("</svg>");
        return _svg.ToString();
    }

    private string[] FamiliesOf(string plane)
        => [.. results.Contenders.Where(contender => contender.Plane == plane && !contender.IsTime).Select(contender => contender.Family).Distinct()
            .Where(family => BlockSizes.All.Any(block => results.Best(family, block) is not null))];

    private int AddGroup(string plane, string[] families, int y)
    {
        double most = families.SelectMany(family => BlockSizes.All.Select(block => HighestOf(family, block))).Append(1e-9).Max();
        double scale = (PanelWidth - ValueWidth) / most;
        Text(Margin, y + 14, "head", $"{plane}, GiB/s");
        for (int panel = 0; panel < BlockSizes.All.Length; panel++)
        {
            Text(PanelStart(panel), y + 34, "faint", BlockSizes.Format(BlockSizes.All[panel]));
        }
        y += HeadHeight;
        foreach (string family in families)
        {
            Text(Margin + LabelWidth - 10, y + 11, "end", family);
            for (int panel = 0; panel < BlockSizes.All.Length; panel++)
            {
                AddBar(family, BlockSizes.All[panel], PanelStart(panel), y, scale);
            }
            y += RowHeight;
        }
        for (int panel = 0; panel < BlockSizes.All.Length; panel++)
        {
            int x = PanelStart(panel);
            _svg.AppendLine($"""<line class="axis" x1="{x}" x2="{x}" y1="{y - (families.Length * RowHeight) - 4}" y2="{y - 2}"/>""");
        }
        return y;
    }

    private void AddBar(string family, long block, int x, int y, double scale)
    {
        Contender? best = results.Best(family, block);
        if (best is null)
        {
            return;
        }
        double[] figures = results.Figures(best, block);
        double median = Statistics.Median(figures);
        string kind = best.IsOurs ? "ours" : best.Limit == best.Family ? "limit" : "other";
        double middle = y + (BarHeight / 2.0);
        _svg.AppendLine($"""<rect class="{kind}" x="{x}" y="{y}" width="{median * scale:0.0}" height="{BarHeight}"><title>{Escape($"{best.Name}, {BlockSizes.Format(block)}: {median:0.00} GiB/s ({Statistics.Range(figures, "0.00")})")}</title></rect>""");
        _svg.AppendLine($"""<line class="range" x1="{x + (figures.Min() * scale):0.0}" x2="{x + (figures.Max() * scale):0.0}" y1="{middle:0.0}" y2="{middle:0.0}"/>""");
        Text(x + (int)(figures.Max() * scale) + 5, y + 11, "", median.ToString(median < 10 ? "0.00" : "0.0", null));
    }

    private void AddLegend(int y)
    {
        int x = Margin + LabelWidth;
        foreach ((string kind, string meaning) in new[] { ("ours", "ours"), ("limit", "the limit of its kind"), ("other", "others") })
        {
            _svg.AppendLine($"""<rect class="{kind}" x="{x}" y="{y - 10}" width="12" height="12"/>""");
            Text(x + 18, y, "", meaning);
            x += 170;
        }
        Text(x, y, "faint", "bars: medians; lines: lowest to highest");
        if (attachLine is not null)
        {
            Text(Margin + LabelWidth, y + RowHeight, "", attachLine);
        }
    }

    private double HighestOf(string family, long block) => results.Best(family, block) is Contender best ? results.Figures(best, block).Max() : 0;

    private static int PanelStart(int panel) => Margin + LabelWidth + (panel * PanelWidth);

    private void Text(int x, int y, string kind, string text)
        => _svg.AppendLine(kind.Length == 0 ? $"""<text x="{x}" y="{y}">{Escape(text)}</text>""" : $"""<text class="{kind}" x="{x}" y="{y}">{Escape(text)}</text>""");

    private static string Escape(string text) => text.Replace("&", "&amp;", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal).Replace(">", "&gt;", StringComparison.Ordinal);
}
