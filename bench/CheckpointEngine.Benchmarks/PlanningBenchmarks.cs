using BenchmarkDotNet.Attributes;
using CheckpointEngine.Metas;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Benchmarks;

/// <summary>The plan of a join of 139,600 tensors from 256 owners, whole and by patterns.</summary>
public class PlanningBenchmarks
{
    private readonly CheckpointMetas _metas = KimiK2.CreateMetas();
    private readonly TensorFilter _experts = new(["model.layers.*.mlp.experts.*"], ["*_scale_inv"]);

    /// <summary>What a plan can least do: look at every tensor's name, size and place once.</summary>
    [Benchmark(Baseline = true)]
    public long VisitAll()
    {
        long sum = 0;
        for (int tensor = 0; tensor < _metas.Tensors.Count; tensor++)
        {
            sum += _metas.Tensors.GetNameUtf8(tensor).Length + _metas.Tensors.GetByteLength(tensor) + _metas.Tensors.GetOffset(tensor);
        }
        return sum;
    }

    [Benchmark]
    public TransferPlan PlanAll() => TransferPlanner.Plan(_metas, TensorFilter.All);

    [Benchmark]
    public TransferPlan PlanExperts() => TransferPlanner.Plan(_metas, _experts);
}
