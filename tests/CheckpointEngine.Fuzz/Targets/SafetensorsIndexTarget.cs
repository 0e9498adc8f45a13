using System.Buffers;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Fuzz.Support;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>The index of a checkpoint in several files. No file that it names lies outside its directory.</summary>
internal sealed class SafetensorsIndexTarget : FuzzTarget
{
    internal override string Name => "safetensors-index";

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Json(
        "\"weight_map\":{", "\"metadata\":{\"total_size\":1},", "\"a\":\"m.safetensors\",", "\"..\"", "../", "./", "/", "//", "\\\\", "\\u002e\\u002e", "\\u002f", "__metadata__");

    internal override string Run(byte[] input)
    {
        SafetensorsIndex index = SafetensorsIndex.Parse(input, "fuzz");
        string directory = Path.GetFullPath("/checkpoint");
        foreach (string file in index.Files)
        {
            Check(Path.GetFullPath(Path.Join(directory, file)).StartsWith(directory + "/", StringComparison.Ordinal), "a file outside the directory of the index");
        }
        string[] names = [.. index.WeightMap.Keys];
        if (Array.IndexOf(names, "__metadata__") >= 0)
        {
            return "reserved name";    // which no safetensors file can have
        }
        using var builder = new TensorTableBuilder();
        foreach (string name in names)
        {
            builder.Add(Encoding.UTF8.GetBytes(name), TensorDtype.U8, [1], 1, 0);
        }
        int[] fileOf = [.. names.Select(name => IndexOf(index.Files, index.WeightMap[name]))];
        Check(Array.TrueForAll(fileOf, file => file >= 0), "a tensor in a file that is not listed");
        var written = new ArrayBufferWriter<byte>();
        SafetensorsIndex.Write(written, builder.Build(), fileOf, index.Files);
        SafetensorsIndex again = SafetensorsIndex.Parse(written.WrittenSpan, "fuzz, written");
        Check(again.Files.SequenceEqual(index.Files), "other files once written");
        Check(again.WeightMap.Count == names.Length && Array.TrueForAll(names, name => again.WeightMap[name] == index.WeightMap[name]), "other tensors once written");
        return $"{Math.Min(names.Length, 8)} tensors, {Math.Min(index.Files.Count, 8)} files";
    }

    private static int IndexOf(IReadOnlyList<string> files, string file)
    {
        for (int i = 0; i < files.Count; i++)
        {
            if (files[i] == file)
            {
                return i;
            }
        }
        return -1;
    }
}
