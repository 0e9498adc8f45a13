using System.Globalization;
using System.Text;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.ProcessBenchmarks.Relay;

/// <summary>Simulated joins over their number: until the last has everything, beside the least that is possible and what it would take without relay; and what the owner sends.</summary>
internal static class RelayPlot
{
    private const int Width = 760;
    private const int Left = 60;
    private const int Right = 200;
    private const int Top = 40;
    private const int PanelHeight = 210;
    private const int Gap = 60;

    internal static string ToSvg(IReadOnlyList<(SwarmCase Case, SwarmResult Result)> results)
    {
        int height = Top + (2 * PanelHeight) + Gap + 40;
        var svg = new StringBuilder();
        svg.AppendLine($$"""
            <svg xmlns="http://www.w3.org/2000/svg" width="{{Width}}" height="{{height}}" viewBox="0 0 {{Width}} {{height}}" role="img" aria-label="Simulated joins that read from each other, over their number">
            <style>
              text { font: 12px system-ui, sans-serif; fill: #1f2328; }
              .head { font-weight: 600; font-size: 14px; } .end { text-anchor: end; } .mid { text-anchor: middle; } .faint { fill: #59636e; }
              .page { fill: #ffffff; } .axis { stroke: #d1d9e0; } path { fill: none; stroke-width: 2; }
              .ours { stroke: #0969da; } .limit { stroke: #59636e; stroke-dasharray: 5 4; } .other { stroke: #9aa4af; }
              .dot { fill: #0969da; }
              @media (prefers-color-scheme: dark) {
                text { fill: #e6edf3; } .faint { fill: #9198a1; } .page { fill: #0d1117; } .axis { stroke: #3d444d; }
                .ours { stroke: #4493f8; } .dot { fill: #4493f8; } .limit { stroke: #9198a1; } .other { stroke: #545d68; }
              }
            </style>
            <rect class="page" width="{{Width}}" height="{{height}}"/>
            """);
        double[] joiners = [.. results.Select(result => (double)result.Case.Joiners)];
        double least = results[0].Case.LowerBoundSeconds;
        AddPanel(svg, Top, "until the last joiner has everything, s", joiners, 0, Math.Ceiling(3 * least),
            [("ours", "with relay", [.. results.Select(result => result.Result.Seconds)]), ("limit", "the least possible", [.. results.Select(result => result.Case.LowerBoundSeconds)]), ("other", "without relay", [.. results.Select(result => result.Case.AloneSeconds)])]);
        AddPanel(svg, Top + PanelHeight + Gap, "sent, in checkpoints", joiners, 0, 3,
            [("ours", "by the owner", [.. results.Select(result => result.Result.OwnerCopies)]), ("limit", "the least possible", [.. results.Select(_ => 1.0)]), ("other", "by the busiest joiner", [.. results.Select(result => result.Result.MostCopies)])]);
        svg.AppendLine("</svg>");
        return svg.ToString();
    }

    private static void AddPanel(StringBuilder svg, int top, string title, double[] joiners, double from, double to, (string Kind, string Name, double[] Values)[] lines)
    {
        double X(double count) => Left + (Math.Log10(count) / Math.Log10(joiners[^1]) * (Width - Left - Right));
        double Y(double value) => top + PanelHeight - ((Math.Clamp(value, from, to) - from) / (to - from) * PanelHeight);
        svg.AppendLine(Line($"""<text class="head" x="{Left - 40}" y="{top - 14}">{title}</text>"""));
        int step = to > 5 ? 2 : 1;
        for (int tick = (int)from; tick <= to; tick += step)
        {
            svg.AppendLine(Line($"""<line class="axis" x1="{Left}" x2="{Width - Right}" y1="{Y(tick):0.0}" y2="{Y(tick):0.0}"/><text class="end faint" x="{Left - 8}" y="{Y(tick) + 4:0.0}">{tick}</text>"""));
        }
        foreach (double count in joiners)
        {
            svg.AppendLine(Line($"""<text class="mid faint" x="{X(count):0.0}" y="{top + PanelHeight + 18}">{count:#,0}</text>"""));
        }
        svg.AppendLine(Line($"""<text class="faint" x="{Width - Right + 20}" y="{top + PanelHeight + 18}">joiners</text>"""));
        int label = top + 16;
        foreach ((string kind, string name, double[] values) in lines)
        {
            // A line that leaves the panel ends at its border.
            int shown = Array.FindIndex(values, value => value > to) is >= 0 and int beyond ? beyond + 1 : values.Length;
            svg.AppendLine(Line($"""<path class="{kind}" d="M{string.Join(" L", values.Take(shown).Select((value, i) => Line($"{X(joiners[i]):0.0} {Y(value):0.0}")))}"/>"""));
            for (int i = 0; kind == "ours" && i < values.Length; i++)
            {
                svg.AppendLine(Line($"""<circle class="dot" cx="{X(joiners[i]):0.0}" cy="{Y(values[i]):0.0}" r="3"><title>{joiners[i]:#,0} joiners: {values[i]:0.00}</title></circle>"""));
            }
            svg.AppendLine(Line($"""<path class="{kind}" d="M{Width - Right + 20} {label - 4} h24"/><text x="{Width - Right + 52}" y="{label}">{name}</text>"""));
            label += 22;
        }
    }

    private static string Line(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
