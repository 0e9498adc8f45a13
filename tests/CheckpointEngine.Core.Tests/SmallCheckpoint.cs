using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Tests;

/// <summary>A checkpoint directory of random bytes in a temporary place; gone with Dispose.</summary>
internal sealed class SmallCheckpoint : IDisposable
{
    private readonly Dictionary<string, byte[]> _tensors = [];

    /// <param name="shards">Tensors of each file.</param>
    internal SmallCheckpoint(params (string Name, TensorDtype Dtype, long[] Shape)[][] shards)
    {
        Path = Directory.CreateTempSubdirectory("ce-test-").FullName;
        var random = new Random(7);
        for (int shard = 0; shard < shards.Length; shard++)
        {
            using var builder = new TensorTableBuilder();
            foreach ((string name, TensorDtype dtype, long[] shape) in shards[shard])
            {
                byte[] content = new byte[dtype.ByteLength(shape)];
                random.NextBytes(content);
                _tensors.Add(name, content);
                builder.Add(System.Text.Encoding.UTF8.GetBytes(name), dtype, shape, content.Length, 0);
            }
            TensorTable table = builder.Build();
            using FileStream file = File.Create(System.IO.Path.Combine(Path, SafetensorsIndex.GetShardName(shard, shards.Length)));
            SafetensorsWriter.Write(file, table, [.. Enumerable.Range(0, table.Count)], (tensor, stream) => stream.Write(_tensors[table.GetName(tensor)]));
        }
        File.WriteAllText(System.IO.Path.Combine(Path, "config.json"), "{\"model_type\":\"test\"}");
    }

    /// <summary>One file of tensors of bytes, whose content is given.</summary>
    internal SmallCheckpoint(Dictionary<string, byte[]> tensors)
    {
        Path = Directory.CreateTempSubdirectory("ce-test-").FullName;
        _tensors = tensors;
        using var builder = new TensorTableBuilder();
        foreach ((string name, byte[] content) in tensors)
        {
            builder.Add(System.Text.Encoding.UTF8.GetBytes(name), TensorDtype.U8, [content.Length], content.Length, 0);
        }
        TensorTable table = builder.Build();
        using FileStream file = File.Create(System.IO.Path.Combine(Path, SafetensorsIndex.GetShardName(0, 1)));
        SafetensorsWriter.Write(file, table, [.. Enumerable.Range(0, table.Count)], (tensor, stream) => stream.Write(_tensors[table.GetName(tensor)]));
    }

    internal string Path { get; }

    internal IReadOnlyDictionary<string, byte[]> Tensors => _tensors;

    /// <summary>Tensors of many sizes: empty, one byte, odd, chunk-sized, above a chunk, and many small ones.</summary>
    internal static SmallCheckpoint OfManySizes() => new(
        [
            ("embed", TensorDtype.BF16, [3000, 1024]), ("empty", TensorDtype.F32, [0, 5]), ("scalar", TensorDtype.F32, []),
            ("exact", TensorDtype.U8, [4 << 20]), ("odd", TensorDtype.U8, [(4 << 20) + 1]), ("big", TensorDtype.F32, [3, 1 << 20]),
        ],
        [.. Enumerable.Range(0, 300).Select(i => ($"layers.{i}.w", TensorDtype.BF16, new long[] { 16 + i, 33 }))]);

    internal static void AssertEqual(IReadOnlyDictionary<string, byte[]> expected, HeldCheckpoint held)
    {
        Assert.Equal(expected.Count, held.Tensors.Count);
        foreach ((string name, byte[] content) in expected)
        {
            Assert.True(content.AsSpan().SequenceEqual(held.GetTensorBytes(name)), $"tensor '{name}' differs");
        }
    }

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
