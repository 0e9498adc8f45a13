using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Benchmarks;

/// <summary>Metas of a checkpoint like Kimi-K2 in FP8: its tensor names, types and dimensions, spread over owner ranks.</summary>
/// <remarks>Dimensions are those of the model's config.json; the weights' scales are one float32 for each block of 128 x 128.</remarks>
internal static class KimiK2
{
    internal const int TensorCount = 139_600;
    internal const int OwnerCount = 256;

    private const int Layers = 61;           // the first is dense
    private const int Experts = 384;
    private const long Hidden = 7168;
    private const long ExpertWidth = 2048;
    private const long SlotAlignment = 256;

    /// <summary>Makes the metas; equal ones each time.</summary>
    internal static CheckpointMetas CreateMetas()
    {
        TensorTable tensors = CreateTensors();
        using var builder = new CheckpointMetasBuilder();
        int tensor = 0;
        for (int rank = 0; rank < OwnerCount; rank++)
        {
            long bytes = 0;
            for (; tensor < (long)tensors.Count * (rank + 1) / OwnerCount; tensor++)
            {
                builder.AddTensorFrom(tensors, tensor, tensors.GetSlotBytes(tensor));
                bytes += tensors.GetSlotBytes(tensor);
            }
            builder.EndBuffer(0x7f3a_0000_0000 + ((ulong)(rank % 8) << 36), bytes);
            builder.EndOwner(rank, $"10.12.{rank / 8}.{(rank % 8) + 10}:{15000 + (rank % 8)}", $"mlx5_{rank % 8}");
        }
        return builder.Build();
    }

    private static TensorTable CreateTensors()
    {
        using var table = new TensorTableBuilder();
        Add(table, "model.embed_tokens.weight", TensorDtype.BF16, 163840, Hidden);
        for (int layer = 0; layer < Layers; layer++)
        {
            string at = $"model.layers.{layer}.";
            Add(table, at + "input_layernorm.weight", TensorDtype.BF16, Hidden);
            Add(table, at + "post_attention_layernorm.weight", TensorDtype.BF16, Hidden);
            AddFp8(table, at + "self_attn.q_a_proj", 1536, Hidden);
            Add(table, at + "self_attn.q_a_layernorm.weight", TensorDtype.BF16, 1536);
            AddFp8(table, at + "self_attn.q_b_proj", 64 * 192, 1536);
            AddFp8(table, at + "self_attn.kv_a_proj_with_mqa", 512 + 64, Hidden);
            Add(table, at + "self_attn.kv_a_layernorm.weight", TensorDtype.BF16, 512);
            AddFp8(table, at + "self_attn.kv_b_proj", 64 * 256, 512);
            AddFp8(table, at + "self_attn.o_proj", Hidden, 64 * 128);
            if (layer == 0)
            {
                AddMlp(table, at + "mlp", 18432);
                continue;
            }
            Add(table, at + "mlp.gate.weight", TensorDtype.BF16, Experts, Hidden);
            Add(table, at + "mlp.gate.e_score_correction_bias", TensorDtype.F32, Experts);
            AddMlp(table, at + "mlp.shared_experts", ExpertWidth);
            for (int expert = 0; expert < Experts; expert++)
            {
                AddMlp(table, $"{at}mlp.experts.{expert}", ExpertWidth);
            }
        }
        Add(table, "model.norm.weight", TensorDtype.BF16, Hidden);
        Add(table, "lm_head.weight", TensorDtype.BF16, 163840, Hidden);
        // The model has 139,583; the round number of the requirement is filled with what older checkpoints of its kind carried.
        for (int layer = 0; table.Count < TensorCount; layer++)
        {
            Add(table, $"model.layers.{layer}.self_attn.rotary_emb.inv_freq", TensorDtype.F32, 32);
        }
        return table.Build();
    }

    private static void AddMlp(TensorTableBuilder table, string at, long width)
    {
        AddFp8(table, at + ".gate_proj", width, Hidden);
        AddFp8(table, at + ".up_proj", width, Hidden);
        AddFp8(table, at + ".down_proj", Hidden, width);
    }

    private static void AddFp8(TensorTableBuilder table, string name, long rows, long columns)
    {
        Add(table, name + ".weight", TensorDtype.F8E4M3, rows, columns);
        Add(table, name + ".weight_scale_inv", TensorDtype.F32, (rows + 127) / 128, (columns + 127) / 128);
    }

    private static void Add(TensorTableBuilder table, string name, TensorDtype dtype, params ReadOnlySpan<long> shape)
    {
        long bytes = dtype == TensorDtype.F8E4M3 ? 1 : dtype == TensorDtype.BF16 ? 2 : 4;
        foreach (long dimension in shape)
        {
            bytes *= dimension;
        }
        table.Add(Encoding.UTF8.GetBytes(name), dtype, shape, (bytes + SlotAlignment - 1) / SlotAlignment * SlotAlignment, 0);
    }
}
