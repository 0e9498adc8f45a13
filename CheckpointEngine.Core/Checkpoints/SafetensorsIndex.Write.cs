using System.Buffers;
using System.Text.Encodings.Web;
using System.Text.Json;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

public sealed partial class SafetensorsIndex
{
    /// <summary>The name of shard <paramref name="shard"/> (from 0) of <paramref name="shardCount"/>, as Hugging Face counts: <c>model-00001-of-00004.safetensors</c>.</summary>
    public static string GetShardName(int shard, int shardCount)
        => shardCount == 1 ? "model.safetensors" : $"model-{shard + 1:D5}-of-{shardCount:D5}.safetensors";

    /// <summary>Writes an index in Hugging Face's form: <c>metadata.total_size</c>, then <c>weight_map</c> by tensor name.</summary>
    /// <param name="destination">Receives UTF-8.</param>
    /// <param name="tensors">The tensors.</param>
    /// <param name="fileOf">For each tensor of the table: which of <paramref name="files"/> holds it, or -1 for a tensor that is left out.</param>
    /// <param name="files">The file names.</param>
    /// <exception cref="CheckpointEngineException">InvalidData: two tensors have one name, or a name is not UTF-8.</exception>
    public static void Write(IBufferWriter<byte> destination, TensorTable tensors, ReadOnlySpan<int> fileOf, IReadOnlyList<string> files)
    {
        ArgumentNullException.ThrowIfNull(destination);
        ArgumentNullException.ThrowIfNull(tensors);
        ArgumentNullException.ThrowIfNull(files);
        ArgumentOutOfRangeException.ThrowIfNotEqual(fileOf.Length, tensors.Count);
        var order = new List<int>(tensors.Count);
        long totalBytes = 0;
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            if (fileOf[tensor] >= 0)
            {
                order.Add(tensor);
                totalBytes += tensors.GetByteLength(tensor);
            }
        }
        order.Sort((a, b) => tensors.GetNameUtf8(a).SequenceCompareTo(tensors.GetNameUtf8(b)));
        using var json = new Utf8JsonWriter(destination, new JsonWriterOptions { Indented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping });
        json.WriteStartObject();
        json.WriteStartObject("metadata"u8);
        json.WriteNumber("total_size"u8, totalBytes);
        json.WriteEndObject();
        json.WriteStartObject("weight_map"u8);
        for (int i = 0; i < order.Count; i++)
        {
            SafetensorsWriter.CheckName(tensors, order[i]);
            if (i > 0 && tensors.GetNameUtf8(order[i - 1]).SequenceEqual(tensors.GetNameUtf8(order[i])))
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"write index: two tensors are called {TensorNames.Quote(tensors, order[i])}");
            }
            json.WriteString(tensors.GetNameUtf8(order[i]), files[fileOf[order[i]]]);
        }
        json.WriteEndObject();
        json.WriteEndObject();
    }
}
