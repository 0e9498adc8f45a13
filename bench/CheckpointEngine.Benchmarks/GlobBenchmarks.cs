using BenchmarkDotNet.Attributes;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Benchmarks;

/// <summary>One tensor name against one pattern.</summary>
public class GlobBenchmarks
{
    private const int Matches = 1000;

    private static readonly byte[] s_name = "model.layers.17.mlp.experts.283.down_proj.weight_scale_inv"u8.ToArray();

    private readonly Glob _simple = new("model.layers.*.weight_scale_inv");
    private readonly Glob _sets = new("model.layers.[0-9]*.mlp.experts.*.[!u]*_proj.weight*");
    private readonly Glob _backtracking = new("*a*b*c*d*e*f*g*");

    [Benchmark(Baseline = true, OperationsPerInvoke = Matches)]
    public int CompareBytes()
    {
        int found = 0;
        for (int i = 0; i < Matches; i++)
        {
            found += s_name.AsSpan().IndexOf("weight_scale_inv"u8) >= 0 ? 1 : 0;
        }
        return found;
    }

    [Benchmark(OperationsPerInvoke = Matches)]
    public int Simple() => Count(_simple);

    [Benchmark(OperationsPerInvoke = Matches)]
    public int Sets() => Count(_sets);

    [Benchmark(OperationsPerInvoke = Matches)]
    public int Backtracking() => Count(_backtracking);

    private static int Count(Glob glob)
    {
        int found = 0;
        for (int i = 0; i < Matches; i++)
        {
            found += glob.IsMatch(s_name) ? 1 : 0;
        }
        return found;
    }
}
