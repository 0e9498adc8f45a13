using CheckpointEngine.Cli.Output;
using CheckpointEngine.Inference;
using CheckpointEngine.Metas;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Cli;

/// <summary>Sums up an engine's plan by owner.</summary>
internal static class PlanSummary
{
    /// <summary>Adds which way each owner's bytes would come; owners of which nothing is read have none.</summary>
    public static PlanJson WithPlanes(PlanJson plan, IReadOnlyList<OwnerPlane> planes)
        => plan with
        {
            Owners = [.. plan.Owners.Select(owner => planes.FirstOrDefault(plane => plane.Rank == owner.Rank) is { } plane && owner.Bytes != 0
                ? owner with { Transport = plane.Transport, Attached = plane.Attached, Encrypted = plane.Encrypted ? true : null, Reason = plane.Reason }
                : owner)],
        };

    public static PlanJson Of(CheckpointMetas metas, TensorFilter filter)
    {
        TransferPlan plan = TransferPlanner.Plan(metas, filter);
        var ranges = new int[metas.Owners.Length];
        var tensors = new int[metas.Owners.Length];
        foreach (ReadRange range in plan.Ranges)
        {
            ranges[range.Owner]++;
        }
        foreach (PlannedBuffer buffer in plan.Buffers)
        {
            tensors[buffer.Owner] += buffer.TensorCount;
        }
        var owners = new PlanOwnerJson[metas.Owners.Length];
        for (int o = 0; o < owners.Length; o++)
        {
            owners[o] = new PlanOwnerJson(metas.Owners[o].Rank, metas.Owners[o].P2pStoreAddress, plan.OwnerBytes[o], tensors[o], ranges[o]);
        }
        long memory = 0;
        foreach (PlannedBuffer buffer in plan.Buffers)
        {
            memory += buffer.SizeBytes;
        }
        (long buckets, long staging) = UpdateMemory.Of(plan.Tensors);
        return new PlanJson(plan.DataBytes, plan.Tensors.Count, plan.Ranges.Length, owners, memory, new PlanUpdateJson(buckets, staging));
    }
}
