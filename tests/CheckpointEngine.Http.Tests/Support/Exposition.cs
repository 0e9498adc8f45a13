using System.Globalization;
using System.Text.RegularExpressions;

namespace CheckpointEngine.Http.Tests.Support;

/// <summary>What <c>/metrics</c> says, read as strictly as the format is: a family has its type and help before its samples, and comes once.</summary>
internal sealed partial class Exposition
{
    private Exposition()
    {
    }

    /// <summary>The type of each family.</summary>
    internal Dictionary<string, string> Types { get; } = [];

    /// <summary>The help of each family.</summary>
    internal Dictionary<string, string> Helps { get; } = [];

    /// <summary>Each sample, its labels sorted and those of the exporter left out: <c>name{label="value"}</c>.</summary>
    internal Dictionary<string, double> Samples { get; } = [];

    internal double this[string sample] => Samples.TryGetValue(sample, out double value) ? value : throw new KeyNotFoundException($"no {sample}; there are: {string.Join('\n', Samples.Keys)}");

    internal static Exposition Parse(string text)
    {
        Assert.EndsWith("\n", text, StringComparison.Ordinal);
        var exposition = new Exposition();
        string family = "";
        foreach (string line in text.Split('\n').Where(static line => line.Length != 0))
        {
            if (TypeLine().Match(line) is { Success: true } type)
            {
                family = type.Groups[1].Value;
                Assert.True(exposition.Types.TryAdd(family, type.Groups[2].Value), $"the type of {family} comes twice");
            }
            else if (HelpLine().Match(line) is { Success: true } help)
            {
                Assert.True(exposition.Helps.TryAdd(help.Groups[1].Value, help.Groups[2].Value), $"the help of {help.Groups[1].Value} comes twice");
            }
            else
            {
                Match sample = SampleLine().Match(line);
                Assert.True(sample.Success, $"no sample: {line}");
                string name = sample.Groups[1].Value;
                Assert.True(name == family || (exposition.Types[family] == "histogram" && name[..family.Length] == family && name[family.Length..] is "_bucket" or "_sum" or "_count"), $"{name} stands under {family}");
                string[] labels = [.. LabelPair().Matches(sample.Groups[2].Value).Select(static pair => pair.Value).Where(static pair => !pair.StartsWith("otel_scope_", StringComparison.Ordinal)).Order(StringComparer.Ordinal)];
                exposition.Samples.Add(name + (labels.Length == 0 ? "" : $"{{{string.Join(',', labels)}}}"), double.Parse(sample.Groups[3].Value.Replace("+Inf", "∞", StringComparison.Ordinal), CultureInfo.InvariantCulture));
            }
        }
        return exposition;
    }

    [GeneratedRegex("^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram|summary|untyped)$")]
    private static partial Regex TypeLine();

    [GeneratedRegex(@"^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) ((?:[^\\]|\\\\|\\n)+)$")]
    private static partial Regex HelpLine();

    [GeneratedRegex("""^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\["\\n])*",?)*)\})? ([-+0-9.eE]+|[-+]?Inf|NaN)(?: [0-9]+)?$""")]
    private static partial Regex SampleLine();

    [GeneratedRegex("""[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\["\\n])*""" + "\"")]
    private static partial Regex LabelPair();
}
