using System.Diagnostics.CodeAnalysis;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>What the command line asks for.</summary>
internal sealed record BenchmarkOptions
{
    internal const string Compare = "compare";

    /// <summary>Not among all: it needs a Mooncake.</summary>
    internal const string MooncakeLibrary = "mooncake-library";

    /// <inheritdoc cref="MooncakeLibrary"/>
    internal const string Interop = "interop";

    /// <summary>Not among all: ten thousand joiners take minutes to simulate, and root is needed for eight real ones.</summary>
    internal const string Relay = "relay";

    private static readonly string[] s_all = ["join-vs-pump", "kimi-metas", "start-up", "join-latency", "c-interface", "local-plane", "many-joiners", "registration", "update", "trust", "telemetry", "encrypt"];

    private int? _passes;
    private double? _gib;

    internal required IReadOnlyList<string> Benchmarks { get; init; }

    internal bool Check { get; private set; }

    /// <summary>Installs the tools that compare lacks.</summary>
    internal bool Install { get; private set; }

    /// <summary>The directory that compare writes its report into, and relay its plot.</summary>
    internal string? WriteTo { get; private set; }

    internal bool ArePassesGiven => _passes is not null;

    internal int Passes => _passes ?? (IsComparison || Benchmarks[0] == Relay ? 3 : 5);

    /// <summary>Size of the checkpoint; that of the comparison is as large as its largest block.</summary>
    internal double Gib => _gib ?? (IsComparison || Benchmarks[0] == Relay ? 1 : 2);

    internal IReadOnlyList<int> Connections { get; private set; } = [1, 2];

    internal string Hold { get; private set; } = "map";

    private bool IsComparison => Benchmarks[0] == Compare;

    internal static bool TryParse(string[] args, [NotNullWhen(true)] out BenchmarkOptions? options)
    {
        options = null;
        if (args.Length == 0 || (args[0] is not ("all" or Compare or MooncakeLibrary or Interop or Relay) && !s_all.Contains(args[0])))
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
            else if (args[i] == "--install")
            {
                parsed.Install = true;
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
                _passes = passes;
                return true;
            case "--gib" when double.TryParse(value, out double gib) && gib is > 0 and <= 64:
                _gib = gib;
                return true;
            case "--connections":
                int[] counts = [.. value.Split(',').Select(text => int.TryParse(text, out int count) ? count : 0)];
                Connections = counts;
                return counts.All(count => count is >= 1 and <= 64);
            case "--write" when value.Length != 0:
                WriteTo = Path.GetFullPath(value);
                return true;
            case "--hold" when value is "map" or "memfd" or "anon":
                Hold = value;
                return true;
            default:
                return false;
        }
    }
}
