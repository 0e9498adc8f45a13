using System.Text.Json.Nodes;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>Metas as Python's checkpoint-engine makes and understands them, with nothing of the engine: its rule of offsets, its names of types.</summary>
internal static class UpstreamMetas
{
    private const int Alignment = 256;

    private static readonly Dictionary<string, (string Safetensors, int Bytes)> s_dtypes = new()
    {
        ["torch.bfloat16"] = ("BF16", 2), ["torch.float32"] = ("F32", 4), ["torch.int64"] = ("I64", 8), ["torch.uint8"] = ("U8", 1),
    };

    /// <summary>Packs tensors into a buffer as upstream copies them: by name, each slot rounded up to 256 bytes.</summary>
    public static (byte[] Buffer, JsonArray Metas) Pack(IReadOnlyDictionary<string, Tensor> tensors)
    {
        var buffer = new MemoryStream();
        var metas = new JsonArray();
        foreach ((string name, Tensor tensor) in tensors.OrderBy(tensor => tensor.Key, StringComparer.Ordinal))
        {
            buffer.Write(tensor.Bytes);
            int slot = (tensor.Bytes.Length + Alignment - 1) / Alignment * Alignment;
            buffer.Write(new byte[slot - tensor.Bytes.Length]);
            metas.Add(new JsonObject
            {
                ["name"] = name,
                ["dtype"] = s_dtypes.Single(dtype => dtype.Value.Safetensors == tensor.Dtype).Key,
                ["shape"] = new JsonArray([.. tensor.Shape.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(dimension => JsonValue.Create(long.Parse(dimension, null)))]),
                ["aligned_size"] = slot,
            });
        }
        return (buffer.ToArray(), metas);
    }

    /// <summary>One owner with one buffer.</summary>
    public static JsonObject Owner(string segment, ulong address, JsonArray metas, long bytes) => new()
    {
        ["p2p_store_addr"] = segment,
        ["memory_buffer_metas_list"] = new JsonArray(new JsonObject { ["metas"] = metas, ["ptr"] = address, ["size"] = bytes }),
        ["rdma_device"] = "",
    };

    /// <summary>Every buffer that metas tell: where, and how long.</summary>
    public static IEnumerable<(string Segment, ulong Address, long Bytes, JsonArray Metas)> Buffers(JsonNode metas)
        => metas.AsObject().SelectMany(owner => owner.Value!["memory_buffer_metas_list"]!.AsArray().Select(buffer =>
            (owner.Value["p2p_store_addr"]!.GetValue<string>(), buffer!["ptr"]!.GetValue<ulong>(), buffer["size"]!.GetValue<long>(), buffer["metas"]!.AsArray())));

    /// <summary>Cuts a buffer's bytes into its tensors: each begins where the slots before it end.</summary>
    public static void Unpack(JsonArray metas, byte[] buffer, Dictionary<string, Tensor> tensors)
    {
        int at = 0;
        foreach (JsonNode? meta in metas)
        {
            long[] shape = [.. meta!["shape"]!.AsArray().Select(dimension => dimension!.GetValue<long>())];
            (string dtype, int width) = s_dtypes[meta["dtype"]!.GetValue<string>()];
            int bytes = (int)shape.Aggregate((long)width, (product, dimension) => product * dimension);
            tensors.Add(meta["name"]!.GetValue<string>(), new Tensor(dtype, string.Join(',', shape), buffer[at..(at + bytes)]));
            at += (int)meta["aligned_size"]!.GetValue<long>();
        }
    }
}
