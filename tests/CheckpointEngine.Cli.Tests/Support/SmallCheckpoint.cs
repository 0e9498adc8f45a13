using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>A tensor as a test sees it.</summary>
internal sealed record Tensor(string Dtype, string Shape, byte[] Bytes)
{
    public bool Equals(Tensor? other) => other is not null && Dtype == other.Dtype && Shape == other.Shape && Bytes.AsSpan().SequenceEqual(other.Bytes);

    public override int GetHashCode() => Bytes.Length;
}

/// <summary>Writes and reads safetensors directories with nothing of the engine, so that its mistakes cannot cancel out.</summary>
internal static class SmallCheckpoint
{
    public const string Config = "{\"model_type\":\"small\"}";

    /// <summary>Two shards with an index and a side file: odd sizes, an empty and a zero-dimensional tensor, a name beyond ASCII.</summary>
    public static void WriteSharded(string directory)
    {
        Directory.CreateDirectory(directory);
        var random = new Random(20261123);
        Shard(directory, "model-00001-of-00002.safetensors", random,
            ("model.embed_tokens.weight", "BF16", [1000, 64]), ("model.layers.0.norm.weight", "F32", [7]), ("model.layers.0.scale", "F32", []), ("größe.重み", "U8", [3, 5]));
        Shard(directory, "model-00002-of-00002.safetensors", random,
            ("model.layers.1.mlp.weight", "F8_E4M3", [4097, 33]), ("model.layers.1.empty", "I64", [0, 4]), ("lm_head.weight", "BF16", [300_001]));
        File.WriteAllText(Path.Combine(directory, "model.safetensors.index.json"), """
            {"metadata":{"total_size":1},"weight_map":{
            "model.embed_tokens.weight":"model-00001-of-00002.safetensors","model.layers.0.norm.weight":"model-00001-of-00002.safetensors",
            "model.layers.0.scale":"model-00001-of-00002.safetensors","größe.重み":"model-00001-of-00002.safetensors",
            "model.layers.1.mlp.weight":"model-00002-of-00002.safetensors","model.layers.1.empty":"model-00002-of-00002.safetensors",
            "lm_head.weight":"model-00002-of-00002.safetensors"}}
            """);
        File.WriteAllText(Path.Combine(directory, "config.json"), Config);
    }

    /// <summary>One file with one tensor of that many bytes.</summary>
    public static void WriteSingle(string directory, int bytes, string name = "weight")
    {
        Directory.CreateDirectory(directory);
        Shard(directory, "model.safetensors", new Random(bytes), (name, "U8", [bytes]));
    }

    /// <summary>Two shards of 68 MB in all: odd sizes, tensors of no bytes at the front, in the middle and at the end, types that every torch has.</summary>
    public static void WriteWorld(string directory)
    {
        Directory.CreateDirectory(directory);
        var random = new Random(20261126);
        Shard(directory, "model-00001-of-00002.safetensors", random,
            ("a.empty", "F32", [0, 3]), ("a.weight", "BF16", [4097, 4093]), ("a.odd", "U8", [1_000_003]), ("a.scale", "F32", []), ("a.one", "U8", [1]));
        Shard(directory, "model-00002-of-00002.safetensors", random,
            ("b.norm", "F32", [255]), ("b.none", "I64", [7, 0]), ("b.weight", "BF16", [2047, 8191]), ("größe.重み", "U8", [257, 3]), ("b.last", "BF16", [0]));
    }

    /// <summary>As many files of one small tensor each.</summary>
    public static void WriteFiles(string directory, int count)
    {
        Directory.CreateDirectory(directory);
        for (int i = 0; i < count; i++)
        {
            Shard(directory, $"part-{i:D5}.safetensors", new Random(i), ($"t{i:D5}", "U8", [40 + (i % 50)]));
        }
    }

    /// <summary>One digest of all names, types, shapes and bytes.</summary>
    public static string Digest(IReadOnlyDictionary<string, Tensor> tensors)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach ((string name, Tensor tensor) in tensors.OrderBy(tensor => tensor.Key, StringComparer.Ordinal))
        {
            hash.AppendData(Encoding.UTF8.GetBytes($"{name} {tensor.Dtype} [{tensor.Shape}] {tensor.Bytes.Length}\n"));
            hash.AppendData(tensor.Bytes);
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>Every tensor of the shards in a directory.</summary>
    public static Dictionary<string, Tensor> Read(string directory)
        => Directory.GetFiles(directory, "*.safetensors").SelectMany(ReadFile).ToDictionary();

    /// <summary>Every tensor of one file.</summary>
    public static Dictionary<string, Tensor> ReadFile(string file)
    {
        var tensors = new Dictionary<string, Tensor>();
        byte[] content = File.ReadAllBytes(file);
        int header = (int)BinaryPrimitives.ReadUInt64LittleEndian(content);
        using JsonDocument document = JsonDocument.Parse(content.AsMemory(8, header));
        foreach (JsonProperty member in document.RootElement.EnumerateObject().Where(member => member.Name != "__metadata__"))
        {
            JsonElement offsets = member.Value.GetProperty("data_offsets");
            tensors.Add(member.Name, new Tensor(
                member.Value.GetProperty("dtype").GetString()!,
                string.Join(',', member.Value.GetProperty("shape").EnumerateArray().Select(dimension => dimension.GetInt64())),
                content[(8 + header + offsets[0].GetInt32())..(8 + header + offsets[1].GetInt32())]));
        }
        return tensors;
    }

    private static void Shard(string directory, string file, Random random, params (string Name, string Dtype, int[] Shape)[] tensors)
    {
        var header = new StringBuilder("{\"__metadata__\":{\"format\":\"pt\"}");
        int used = 0;
        foreach ((string name, string dtype, int[] shape) in tensors)
        {
            int width = dtype switch { "F32" => 4, "I64" => 8, "BF16" => 2, _ => 1 };
            int bytes = shape.Aggregate(width, (product, dimension) => product * dimension);
            header.Append($",\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":[{string.Join(',', shape)}],\"data_offsets\":[{used},{used + bytes}]}}");
            used += bytes;
        }
        header.Append('}');
        byte[] json = Encoding.UTF8.GetBytes(header.ToString());
        json = [.. json, .. Enumerable.Repeat((byte)' ', (8 - (json.Length % 8)) % 8)];
        byte[] length = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(length, (ulong)json.Length);
        using FileStream stream = File.Create(Path.Combine(directory, file));
        stream.Write(length);
        stream.Write(json);
        byte[] piece = new byte[Math.Min(used, 1 << 20)];      // the guest of the RDMA tests has no memory for whole files
        for (int left = used; left > 0; left -= piece.Length)
        {
            Fill(piece, random);
            stream.Write(piece, 0, Math.Min(piece.Length, left));
        }
    }

    // xorshift64, a word at a time: a Random with a seed makes byte by byte, and in the guest hundreds of MiB of them take longer than what is tested.
    private static void Fill(Span<byte> bytes, Random random)
    {
        ulong state = (ulong)random.NextInt64(1, long.MaxValue);
        foreach (ref ulong word in MemoryMarshal.Cast<byte, ulong>(bytes))
        {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word = state;
        }
        random.NextBytes(bytes[(bytes.Length & ~7)..]);
    }
}
