using System.Text;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli.Output;

/// <summary>Metas for people: a line an owner, then the sum.</summary>
internal static class MetasTable
{
    public static ReadOnlyMemory<byte> Encode(CheckpointMetas metas)
    {
        using var text = new StringWriter();
        Print(text, metas);
        return Encoding.UTF8.GetBytes(text.ToString());
    }

    private static void Print(TextWriter output, CheckpointMetas metas)
    {
        var table = new TextTable(">rank", "address", "rdma", ">buffers", ">tensors", ">bytes", "dtypes");
        var allDtypes = new Dictionary<string, long>();
        long allBytes = 0;
        int allBuffers = 0;
        foreach (MetasOwner owner in metas.Owners)
        {
            var dtypes = new Dictionary<string, long>();
            long bytes = 0;
            foreach (MetasBuffer buffer in owner.Buffers)
            {
                for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
                {
                    string dtype = ShortName(metas.Tensors.GetDtypeName(tensor));
                    dtypes[dtype] = dtypes.GetValueOrDefault(dtype) + 1;
                    allDtypes[dtype] = allDtypes.GetValueOrDefault(dtype) + 1;
                    bytes += metas.Tensors.GetByteLength(tensor);
                }
            }
            allBytes += bytes;
            allBuffers += owner.Buffers.Length;
            table.Add($"{owner.Rank}", owner.P2pStoreAddress ?? "(none)", string.IsNullOrEmpty(owner.RdmaDevice) ? "-" : owner.RdmaDevice,
                Quantity.Count(owner.Buffers.Length), Quantity.Count(owner.TensorCount), Quantity.Bytes(bytes), Describe(dtypes));
        }
        table.Add("all", "", "", Quantity.Count(allBuffers), Quantity.Count(metas.Tensors.Count), Quantity.Bytes(allBytes), Describe(allDtypes));
        table.Print(output);
    }

    private static string Describe(Dictionary<string, long> dtypes)
        => string.Join(", ", dtypes.OrderByDescending(pair => pair.Value).Select(pair => $"{pair.Key} {Quantity.Count(pair.Value)}"));

    private static string ShortName(string torch)
        => torch.StartsWith("torch.", StringComparison.Ordinal) ? torch["torch.".Length..] : torch;
}
