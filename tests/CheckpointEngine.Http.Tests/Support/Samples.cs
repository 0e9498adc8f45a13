using System.Buffers;
using System.Globalization;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Http.Tests.Support;

internal static class Samples
{
    internal static byte[] Golden(string file) => File.ReadAllBytes(Path.Join(AppContext.BaseDirectory, "Data", "metas", file));

    internal static CheckpointMetas TwoRanks { get; } = MetasJsonReader.Read(Golden("two-ranks.json"));

    /// <summary>Metas of one owner with many tensors; Kimi-K2 has 139,600.</summary>
    internal static CheckpointMetas Many(int tensors)
    {
        using var builder = new CheckpointMetasBuilder();
        const int Slot = 4096 * 7168 * 2;
        for (int tensor = 0; tensor < tensors; tensor++)
        {
            string name = string.Create(CultureInfo.InvariantCulture, $"model.layers.{tensor / 2304}.mlp.experts.{tensor % 384}.down_proj.weight_{tensor % 6}");
            builder.AddTensor(Encoding.UTF8.GetBytes(name), TensorDtype.BF16, [4096, 7168], Slot);
        }
        builder.EndBuffer(1L << 40, (long)tensors * Slot);
        builder.EndOwner(0, "127.0.0.1:1234", "");
        return builder.Build();
    }

    internal static byte[] Json(CheckpointMetas metas)
    {
        var output = new ArrayBufferWriter<byte>();
        MetasJsonWriter.Write(metas, output);
        return output.WrittenSpan.ToArray();
    }

    internal static byte[] Pickle(CheckpointMetas metas)
    {
        var output = new ArrayBufferWriter<byte>();
        MetasPickleWriter.Write(metas, output);
        return output.WrittenSpan.ToArray();
    }

    internal static void AssertEqual(CheckpointMetas expected, CheckpointMetas actual) => Assert.Equal(Encoding.UTF8.GetString(Json(expected)), Encoding.UTF8.GetString(Json(actual)));
}
