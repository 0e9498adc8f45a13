using System.Diagnostics.CodeAnalysis;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>What the command line asks for.</summary>
internal sealed record BenchmarkOptions
{
    private static readonly string[] s_all = ["join-vs-pump", "kimi-metas", "start-up", "join-latency", "c-interface", "registration"];

    internal required IReadOnlyList<string> Benchmarks { get; init; }

    internal bool Check { get; private set; }

    internal int Passes { get; private set; } = 5;

    internal double Gib { get; private set; } = 2;

    internal IReadOnlyList<int> Connections { get; private set; } = [1, 2];

    internal string Hold { get; private set; } = "map";

    internal static bool TryParse(string[] args, [NotNullWhen(true)] out BenchmarkOptions? options)
    {
        options = null;
        if (args.Length == 0 || (args[0] != "all" && !s_all.Contains(args[0])))
        {
            return false;
        }
        var parsed = new BenchmarkOptions { Benchmarks = args[0] == "all" ? s_all : [args[0]] };
        for (int i = 1; i < args.Length; i++)
        {
            if (args[i] == "--check")
            {
                parsed.Check = true;
            }
            else if (i + 1 == args.Length || !parsed.TrySet(args[i], args[++i]))
            {
                return false;
            }
        }
        options = parsed;
        return true;
    }

    private bool TrySet(string option, string value)
    {
        switch (option)
        {
            case "--passes" when int.TryParse(value, out int passes) && passes > 0:
                Passes = passes;
                return true;
            case "--gib" when double.TryParse(value, out double gib) && gib is > 0 and <= 64:
                Gib = gib;
                return true;
            case "--connections":
                int[] counts = [.. value.Split(',').Select(text => int.TryParse(text, out int count) ? count : 0)];
                Connections = counts;
                return counts.All(count => count is >= 1 and <= 64);
            case "--hold" when value is "map" or "memfd" or "anon":
                Hold = value;
                return true;
            default:
                return false;
        }
    }
}
