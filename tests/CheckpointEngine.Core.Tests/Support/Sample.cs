using System.Buffers.Binary;
using System.Text;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Tests;

/// <summary>Small safetensors files for tests.</summary>
internal static class Sample
{
    internal sealed record Tensor(string Name, TensorDtype Dtype, long[] Shape)
    {
        internal byte[] Bytes()
        {
            byte[] bytes = new byte[Dtype.ByteLength(Shape)];
            new Random(StableHash(Name)).NextBytes(bytes);
            return bytes;
        }

        private static int StableHash(string name) => name.Aggregate(17, (hash, c) => unchecked(hash * 31 + c));
    }

    internal static TensorTable Table(params Tensor[] tensors)
    {
        using var builder = new TensorTableBuilder();
        foreach (Tensor tensor in tensors)
        {
            builder.Add(Encoding.UTF8.GetBytes(tensor.Name), tensor.Dtype, tensor.Shape, tensor.Dtype.ByteLength(tensor.Shape), 0);
        }
        return builder.Build();
    }

    /// <summary>A whole file, the data in the order given.</summary>
    internal static byte[] File(params Tensor[] tensors)
    {
        var stream = new MemoryStream();
        SafetensorsWriter.Write(stream, Table(tensors), [.. Enumerable.Range(0, tensors.Length)], (tensor, to) => to.Write(tensors[tensor].Bytes()));
        return stream.ToArray();
    }

    internal static byte[] RawFile(string json, int dataBytes)
    {
        byte[] header = Encoding.UTF8.GetBytes(json);
        byte[] file = new byte[8 + header.Length + dataBytes];
        BinaryPrimitives.WriteInt64LittleEndian(file, header.Length);
        header.CopyTo(file, 8);
        return file;
    }

    internal static SafetensorsHeader Parse(string json, long dataBytes) => SafetensorsHeader.Parse(Encoding.UTF8.GetBytes(json), dataBytes, "f.safetensors");

    internal static string Describe(TensorTable tensors, int tensor)
        => $"{tensors.GetName(tensor)} {tensors.GetDtype(tensor)} [{string.Join(',', tensors.GetShape(tensor).ToArray())}] {tensors.GetSlotBytes(tensor)} @{tensors.GetOffset(tensor)}";
}
