using System.IO.Hashing;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>Metas as JSON: the whole and the same bytes in pieces give the same, both formats that are written of it can be read.</summary>
internal sealed class MetasJsonTarget : FuzzTarget
{
    internal override string Name => "metas-json";

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Json(
        "\"p2p_store_addr\":", "\"memory_buffer_metas_list\":[", "\"metas\":[", "\"ptr\":", "\"size\":", "\"name\":\"a\",", "\"dtype\":\"torch.uint8\",", "\"shape\":[1],", "\"aligned_size\":256",
        "\"rdma_device\":\"\"", "\"digest\":\"xxh3-128/4m:00112233445566778899aabbccddeeff\"", "\"digest\":\"sha256/4m:", "\"safetensors_dtype\":\"F4\",", "\"safetensors_shape\":[2],", "torch.",
        "\"1\":{", "\"dtype\":\"torch.float4_e2m1fn_x2\"");

    internal override string Run(byte[] input)
    {
        CheckpointMetas? metas = Try(() => MetasJsonReader.Read(input), out CheckpointEngineException? refused);
        using var pieces = new PieceStream(input, (int)XxHash32.HashToUInt32(input));
        CheckpointMetas? inPieces = Try(() => MetasJsonReader.ReadAsync(pieces, input.Length, CancellationToken.None).AsTask().GetAwaiter().GetResult(), out CheckpointEngineException? refusedInPieces);
        Check(refused?.Error == refusedInPieces?.Error, $"the whole is {refused?.Message ?? "read"}, in pieces it is {refusedInPieces?.Message ?? "read"}");
        if (metas is null || inPieces is null)
        {
            throw refused!;
        }
        byte[] json = MetasChecks.Json(metas);
        CheckSame(json, MetasChecks.Json(inPieces), "the whole and the pieces");
        CheckSame(json, MetasChecks.Json(MetasJsonReader.Read(json)), "written once and twice");
        CheckSame(json, MetasChecks.Json(CheckpointMetas.Merge(metas, CheckpointMetas.Empty)), "alone and merged");
        byte[] pickle = MetasChecks.Pickle(metas, protocol: 4);
        CheckSame(pickle, MetasChecks.Pickle(MetasPickleReader.Read(pickle), protocol: 4), "pickled once and twice");
        return MetasChecks.Describe(metas);
    }

    private static CheckpointMetas? Try(Func<CheckpointMetas> read, out CheckpointEngineException? refused)
    {
        refused = null;
        try
        {
            return read();
        }
        catch (CheckpointEngineException refusal)
        {
            refused = refusal;
            return null;
        }
    }
}
