using System.Text;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.MakeCheckpoint;

/// <summary>The tensors of a model, with dimensions that can be scaled so that the whole has a wanted size.</summary>
/// <remarks>Names, types and dimensions are those of the published architectures (config.json of each model).</remarks>
internal sealed class ModelShape
{
    private const int Grain = 16;   // scaled dimensions are multiples of this

    private readonly Action<Scaled> _describe;

    private ModelShape(string architecture, string modelType, Action<Scaled> describe)
    {
        Architecture = architecture;
        ModelType = modelType;
        _describe = describe;
    }

    /// <summary>The class name in config.json.</summary>
    internal string Architecture { get; }

    /// <summary>The model type in config.json.</summary>
    internal string ModelType { get; }

    internal static ModelShape? Find(string name) => name switch
    {
        "qwen2.5-7b" => new ModelShape("Qwen2ForCausalLM", "qwen2", DescribeQwen),
        "deepseek-v3-slice" => new ModelShape("DeepseekV3ForCausalLM", "deepseek_v3", DescribeDeepSeek),
        _ => null,
    };

    /// <summary>The tensors, scaled to about <paramref name="totalBytes"/> in all.</summary>
    internal TensorTable Scale(long totalBytes)
    {
        double low = 0, high = 64;
        for (int step = 0; step < 40; step++)
        {
            double middle = (low + high) / 2;
            if (DataBytes(Describe(middle)) < totalBytes)
            {
                low = middle;
            }
            else
            {
                high = middle;
            }
        }
        return Describe(high);
    }

    private static long DataBytes(TensorTable tensors)
    {
        long bytes = 0;
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            bytes += tensors.GetByteLength(tensor);
        }
        return bytes;
    }

    private TensorTable Describe(double scale)
    {
        using var builder = new TensorTableBuilder();
        _describe(new Scaled(builder, scale));
        return builder.Build();
    }

    private static void DescribeQwen(Scaled model)
    {
        long hidden = model.Dim(3584), intermediate = model.Dim(18944), keyValue = model.Dim(4 * 128), vocabulary = model.Dim(152064);
        model.Add("model.embed_tokens.weight", TensorDtype.BF16, vocabulary, hidden);
        for (int layer = 0; layer < 28; layer++)
        {
            string at = $"model.layers.{layer}.";
            model.Add(at + "input_layernorm.weight", TensorDtype.BF16, hidden);
            model.Add(at + "self_attn.q_proj.weight", TensorDtype.BF16, hidden, hidden);
            model.Add(at + "self_attn.q_proj.bias", TensorDtype.BF16, hidden);
            model.Add(at + "self_attn.k_proj.weight", TensorDtype.BF16, keyValue, hidden);
            model.Add(at + "self_attn.k_proj.bias", TensorDtype.BF16, keyValue);
            model.Add(at + "self_attn.v_proj.weight", TensorDtype.BF16, keyValue, hidden);
            model.Add(at + "self_attn.v_proj.bias", TensorDtype.BF16, keyValue);
            model.Add(at + "self_attn.o_proj.weight", TensorDtype.BF16, hidden, hidden);
            model.Add(at + "post_attention_layernorm.weight", TensorDtype.BF16, hidden);
            model.Add(at + "mlp.gate_proj.weight", TensorDtype.BF16, intermediate, hidden);
            model.Add(at + "mlp.up_proj.weight", TensorDtype.BF16, intermediate, hidden);
            model.Add(at + "mlp.down_proj.weight", TensorDtype.BF16, hidden, intermediate);
        }
        model.Add("model.norm.weight", TensorDtype.BF16, hidden);
        model.Add("lm_head.weight", TensorDtype.BF16, vocabulary, hidden);
    }

    // The three dense layers and the first two of experts: every kind of tensor that the model has, and enough of the small ones.
    private static void DescribeDeepSeek(Scaled model)
    {
        long hidden = model.Dim(7168), expert = model.Dim(2048), vocabulary = model.Dim(129280);
        model.Add("model.embed_tokens.weight", TensorDtype.BF16, vocabulary, hidden);
        for (int layer = 0; layer < 5; layer++)
        {
            string at = $"model.layers.{layer}.";
            AddAttention(model, at, hidden);
            if (layer < 3)
            {
                AddMlp(model, at + "mlp", hidden, model.Dim(18432));
                continue;
            }
            model.Add(at + "mlp.gate.weight", TensorDtype.BF16, 256, hidden);
            model.Add(at + "mlp.gate.e_score_correction_bias", TensorDtype.F32, 256);
            AddMlp(model, at + "mlp.shared_experts", hidden, expert);
            for (int i = 0; i < 256; i++)
            {
                AddMlp(model, $"{at}mlp.experts.{i}", hidden, expert);
            }
        }
        model.Add("model.norm.weight", TensorDtype.BF16, hidden);
        model.Add("lm_head.weight", TensorDtype.BF16, vocabulary, hidden);
    }

    private static void AddAttention(Scaled model, string at, long hidden)
    {
        long queryRank = model.Dim(1536), keyRank = model.Dim(512), keyRankAndRope = model.Dim(512 + 64);
        model.Add(at + "input_layernorm.weight", TensorDtype.BF16, hidden);
        model.AddFp8(at + "self_attn.q_a_proj", queryRank, hidden);
        model.Add(at + "self_attn.q_a_layernorm.weight", TensorDtype.BF16, queryRank);
        model.AddFp8(at + "self_attn.q_b_proj", model.Dim(128 * 192), queryRank);
        model.AddFp8(at + "self_attn.kv_a_proj_with_mqa", keyRankAndRope, hidden);
        model.Add(at + "self_attn.kv_a_layernorm.weight", TensorDtype.BF16, keyRank);
        model.AddFp8(at + "self_attn.kv_b_proj", model.Dim(128 * 256), keyRank);
        model.AddFp8(at + "self_attn.o_proj", hidden, model.Dim(128 * 128));
        model.Add(at + "post_attention_layernorm.weight", TensorDtype.BF16, hidden);
    }

    private static void AddMlp(Scaled model, string at, long hidden, long intermediate)
    {
        model.AddFp8(at + ".gate_proj", intermediate, hidden);
        model.AddFp8(at + ".up_proj", intermediate, hidden);
        model.AddFp8(at + ".down_proj", hidden, intermediate);
    }

    private readonly record struct Scaled(TensorTableBuilder Builder, double Scale)
    {
        internal long Dim(long real) => Math.Max(Grain, (long)Math.Round(real * Scale / Grain) * Grain);

        internal void Add(string name, TensorDtype dtype, params ReadOnlySpan<long> shape)
            => Builder.Add(Encoding.UTF8.GetBytes(name), dtype, shape, dtype.ByteLength(shape), 0);

        // A block-quantised matrix: FP8, and one float32 scale for each block of 128 x 128.
        internal void AddFp8(string name, long rows, long columns)
        {
            Add(name + ".weight", TensorDtype.F8E4M3, rows, columns);
            Add(name + ".weight_scale_inv", TensorDtype.F32, (rows + 127) / 128, (columns + 127) / 128);
        }
    }
}
