using System.Buffers;
using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Checkpoints;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.MakeCheckpoint;

/// <summary>Writes the files.</summary>
internal static class CheckpointMaker
{
    private const int BlockBytes = 8 << 20;
    private const int Threads = 2;

    /// <summary>Makes the directory and everything in it; the same arguments make the same bytes.</summary>
    internal static long Make(string directory, ModelShape shape, long totalBytes, int shards, ulong seed, out int tensorCount)
    {
        Directory.CreateDirectory(directory);
        TensorTable tensors = shape.Scale(totalBytes);
        tensorCount = tensors.Count;
        int[] fileOf = Split(tensors, ref shards);
        long bytes = 0;
        for (int shard = 0; shard < shards; shard++)
        {
            int[] selection = [.. Enumerable.Range(0, tensors.Count).Where(tensor => fileOf[tensor] == shard)];
            SafetensorsWriter.Sort(tensors, selection);
            SafetensorsLayout layout = SafetensorsWriter.Plan(tensors, selection);
            WriteShard(Path.Join(directory, SafetensorsIndex.GetShardName(shard, shards)), layout, seed + ((ulong)shard << 40));
            bytes += layout.FileBytes - layout.Header.Length;
        }
        if (shards > 1)
        {
            var index = new ArrayBufferWriter<byte>();
            SafetensorsIndex.Write(index, tensors, fileOf, [.. Enumerable.Range(0, shards).Select(shard => SafetensorsIndex.GetShardName(shard, shards))]);
            File.WriteAllBytes(Path.Join(directory, SafetensorsIndex.FileName), index.WrittenSpan);
        }
        WriteSideFiles(directory, shape, tensors);
        return bytes;
    }

    // In order, a new shard once the current one has its share, as Hugging Face shards.
    private static int[] Split(TensorTable tensors, ref int shards)
    {
        long total = 0;
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            total += tensors.GetByteLength(tensor);
        }
        int[] fileOf = new int[tensors.Count];
        long before = 0;
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            fileOf[tensor] = (int)Math.Min(shards - 1, before * shards / total);
            if (tensor > 0)
            {
                fileOf[tensor] = Math.Min(fileOf[tensor], fileOf[tensor - 1] + 1);   // a tensor larger than a share leaves no shard empty
            }
            before += tensors.GetByteLength(tensor);
        }
        shards = fileOf[^1] + 1;
        return fileOf;
    }

    private static void WriteShard(string path, SafetensorsLayout layout, ulong seed)
    {
        using SafeFileHandle file = File.OpenHandle(path, FileMode.Create, FileAccess.Write, FileShare.Read, FileOptions.None, layout.FileBytes);
        RandomAccess.Write(file, layout.Header.Span, 0);
        long data = layout.FileBytes - layout.Header.Length;
        long blocks = (data + BlockBytes - 1) / BlockBytes;
        Parallel.For(0, Threads, thread =>
        {
            byte[] block = GC.AllocateUninitializedArray<byte>(BlockBytes);
            for (long i = thread; i < blocks; i += Threads)
            {
                Fill(MemoryMarshal.Cast<byte, ulong>(block.AsSpan()), seed + (ulong)i);
                int length = (int)Math.Min(BlockBytes, data - i * BlockBytes);
                RandomAccess.Write(file, block.AsSpan(0, length), layout.Header.Length + i * BlockBytes);
            }
        });
    }

    // xorshift64 from a mixed seed: full speed of the store, and nothing that a file system or a link would compress.
    private static void Fill(Span<ulong> block, ulong seed)
    {
        ulong state = (seed + 1) * 0x9E3779B97F4A7C15;
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 | 1;
        foreach (ref ulong word in block)
        {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word = state;
        }
    }

    private static void WriteSideFiles(string directory, ModelShape shape, TensorTable tensors)
    {
        ReadOnlySpan<long> embedding = tensors.GetShape(tensors.IndexOf("model.embed_tokens.weight"u8));
        File.WriteAllText(Path.Join(directory, "config.json"), $$"""
            {
              "architectures": ["{{shape.Architecture}}"],
              "model_type": "{{shape.ModelType}}",
              "hidden_size": {{embedding[1]}},
              "vocab_size": {{embedding[0]}},
              "torch_dtype": "bfloat16"
            }

            """);
        File.WriteAllText(Path.Join(directory, "generation_config.json"), "{\n  \"do_sample\": true,\n  \"temperature\": 0.7,\n  \"top_p\": 0.8\n}\n");
        File.WriteAllText(Path.Join(directory, "tokenizer_config.json"), "{\n  \"model_max_length\": 131072,\n  \"tokenizer_class\": \"Qwen2Tokenizer\"\n}\n");
        File.WriteAllText(Path.Join(directory, "chat_template.jinja"), "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}");
        var tokenizer = new StringBuilder("{\n  \"version\": \"1.0\",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"vocab\": {");
        for (int i = 0; i < 1000; i++)
        {
            tokenizer.Append(i == 0 ? "" : ",").Append("\n      \"t").Append(i).Append("\": ").Append(i);
        }
        File.WriteAllText(Path.Join(directory, "tokenizer.json"), tokenizer.Append("\n    },\n    \"merges\": []\n  }\n}\n").ToString());
        File.WriteAllText(Path.Join(directory, "merges.txt"), "#version: 0.2\nt 1\nt 2\n");
    }
}
