using System.Buffers.Binary;
using System.Text;

namespace CheckpointEngine.Http.Tests.Support;

/// <summary>A directory with one safetensors file of two tensors and a configuration.</summary>
internal static class SmallModel
{
    internal static string Write(string directory)
    {
        Directory.CreateDirectory(directory);
        byte[] header = Encoding.UTF8.GetBytes("""{"a":{"dtype":"F32","shape":[2,64],"data_offsets":[0,512]},"b":{"dtype":"U8","shape":[512],"data_offsets":[512,1024]}}""".PadRight(128));
        byte[] file = new byte[8 + header.Length + 1024];
        BinaryPrimitives.WriteInt64LittleEndian(file, header.Length);
        header.CopyTo(file, 8);
        new Random(7).NextBytes(file.AsSpan(8 + header.Length));
        File.WriteAllBytes(Path.Join(directory, "model.safetensors"), file);
        File.WriteAllText(Path.Join(directory, "config.json"), """{"model_type":"small"}""");
        return directory;
    }
}
