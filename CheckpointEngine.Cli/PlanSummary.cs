using CheckpointEngine.Cli.Output;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli;

/// <summary>The one place that knows how the engine plans; everything that prints sees <see cref="PlanJson"/>.</summary>
internal static class PlanSummary
{
    public static PlanJson Of(CheckpointMetas metas)
    {
        var owners = new List<PlanOwnerJson>();
        foreach (MetasOwner owner in metas.Owners)
        {
            long bytes = 0;
            foreach (MetasBuffer buffer in owner.Buffers)
            {
                for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
                {
                    bytes += metas.Tensors.GetByteLength(tensor);
                }
            }
            owners.Add(new PlanOwnerJson(owner.Rank, owner.P2pStoreAddress, bytes, owner.TensorCount, owner.Buffers.Length));
        }
        return new PlanJson(owners.Sum(owner => owner.Bytes), owners.Sum(owner => owner.Tensors), owners.Sum(owner => owner.Ranges), owners);
    }
}
