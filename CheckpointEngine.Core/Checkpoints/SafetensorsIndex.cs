using System.Text;
using System.Text.Json;
using System.Text.Unicode;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>The index of a checkpoint in several safetensors files (<c>model.safetensors.index.json</c>): which file holds which tensor.</summary>
/// <remarks>Immutable; any number of threads. Source: huggingface_hub, <c>save_torch_state_dict</c>; transformers' sharded checkpoints.</remarks>
public sealed partial class SafetensorsIndex
{
    /// <summary>The name that a model's index has.</summary>
    public const string FileName = "model.safetensors.index.json";

    /// <summary>The longest index in bytes; one of a million tensors has about 100 MB.</summary>
    public const int MaxIndexBytes = 256 << 20;

    private const int MaxDepth = 16;

    private readonly string[] _files;

    private SafetensorsIndex(Dictionary<string, string> weightMap, string[] files)
    {
        WeightMap = weightMap;
        _files = files;
    }

    /// <summary>Tensor name to file name.</summary>
    public IReadOnlyDictionary<string, string> WeightMap { get; }

    /// <summary>The names of the files, each once, in ordinal order; relative to the index, with no way out of its directory.</summary>
    public IReadOnlyList<string> Files => _files;

    /// <summary>Reads an index.</summary>
    /// <param name="json">The document, UTF-8.</param>
    /// <param name="fileName">What messages call it.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>; no other exception comes, whatever the input.</exception>
    public static SafetensorsIndex Parse(ReadOnlySpan<byte> json, string fileName)
    {
        if (!Utf8.IsValid(json))
        {
            ThrowHelper.ThrowInvalidData(fileName, 0, "the index is not UTF-8");
        }
        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = MaxDepth });
        try
        {
            return ParseDocument(ref reader, fileName);
        }
        catch (JsonException e)
        {
            ThrowHelper.ThrowInvalidData(fileName, reader.BytesConsumed, $"the index is not JSON: {MessageText.Reason(e)}");
        }
        catch (InvalidOperationException)   // what the reader throws for half of a surrogate pair in an escape
        {
            ThrowHelper.ThrowInvalidData(fileName, reader.BytesConsumed, "a string of the index is not Unicode");
        }
        return null;
    }

    /// <summary>Reads an index file.</summary>
    /// <exception cref="CheckpointEngineException">NotFound, Io, InvalidData.</exception>
    public static SafetensorsIndex Read(string path) => Parse(RegularFile.ReadAll(path, MaxIndexBytes), path);

    /// <summary>Checks that every tensor of the index is in the file that it names.</summary>
    /// <param name="files">The open files, in the order of <see cref="Files"/>.</param>
    /// <param name="indexName">What messages call the index.</param>
    /// <returns>Tensors of the files that the index does not name.</returns>
    /// <exception cref="CheckpointEngineException">InvalidData: a tensor is in no file, or in another than said.</exception>
    public int Check(IReadOnlyList<SafetensorsFile> files, string indexName)
    {
        ArgumentNullException.ThrowIfNull(files);
        if (files.Count != _files.Length)
        {
            throw new ArgumentException($"{files.Count} files for an index of {_files.Length}", nameof(files));
        }
        int listed = 0;
        foreach ((string tensor, string file) in WeightMap)
        {
            int said = Array.BinarySearch(_files, file, StringComparer.Ordinal);
            if (files[said].Tensors.IndexOf(tensor) < 0)
            {
                ThrowMisplaced(files, indexName, tensor, file);
            }
            listed++;
        }
        return files.Sum(file => file.Tensors.Count) - listed;
    }

    private static void ThrowMisplaced(IReadOnlyList<SafetensorsFile> files, string indexName, string tensor, string said)
    {
        string name = TensorNames.Quote(Encoding.UTF8.GetBytes(tensor));
        foreach (SafetensorsFile file in files)
        {
            if (file.Tensors.IndexOf(tensor) >= 0)
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"{indexName}: tensor {name} is said to be in {said} and is in {file.Path}");
            }
        }
        ThrowHelper.Throw(CheckpointError.InvalidData, $"{indexName}: tensor {name} is said to be in {said}, which has no such tensor");
    }

    private static SafetensorsIndex ParseDocument(ref Utf8JsonReader reader, string fileName)
    {
        Dictionary<string, string>? weightMap = null;
        var files = new Dictionary<string, string>();   // one string object a file, not one a tensor
        reader.Read();
        if (reader.TokenType != JsonTokenType.StartObject)
        {
            ThrowHelper.ThrowInvalidData(fileName, reader.BytesConsumed, "the index is no object");
        }
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            if (!reader.ValueTextEquals("weight_map"u8))
            {
                reader.Skip();
                continue;
            }
            if (weightMap is not null)
            {
                ThrowHelper.ThrowInvalidData(fileName, reader.BytesConsumed, "weight_map is there twice");
            }
            weightMap = ReadWeightMap(ref reader, fileName, files);
        }
        if (reader.Read())
        {
            ThrowHelper.ThrowInvalidData(fileName, reader.BytesConsumed, "more follows the index's object");
        }
        if (weightMap is null)
        {
            ThrowHelper.ThrowInvalidData(fileName, reader.BytesConsumed, "the index has no weight_map");
        }
        string[] sorted = [.. files.Keys];
        Array.Sort(sorted, StringComparer.Ordinal);
        return new SafetensorsIndex(weightMap, sorted);
    }

    private static Dictionary<string, string> ReadWeightMap(ref Utf8JsonReader reader, string fileName, Dictionary<string, string> files)
    {
        var map = new Dictionary<string, string>();
        reader.Read();
        if (reader.TokenType != JsonTokenType.StartObject)
        {
            ThrowHelper.ThrowInvalidData(fileName, reader.BytesConsumed, "weight_map is no object");
        }
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string tensor = reader.GetString()!;
            reader.Read();
            if (reader.TokenType != JsonTokenType.String)
            {
                ThrowHelper.ThrowInvalidData(fileName, reader.BytesConsumed, $"weight_map gives tensor {Quote(tensor)} a file that is no string");
            }
            string file = reader.GetString()!;
            if (!files.TryGetValue(file, out string? known))
            {
                if (!IsInside(file))
                {
                    ThrowHelper.ThrowInvalidData(fileName, reader.BytesConsumed,
                        $"weight_map gives tensor {Quote(tensor)} the file {Quote(file)}, and a file must be a plain relative path inside the index's directory");
                }
                files.Add(file, known = file);
            }
            if (!map.TryAdd(tensor, known))
            {
                ThrowHelper.ThrowInvalidData(fileName, reader.BytesConsumed, $"weight_map has tensor {Quote(tensor)} twice");
            }
        }
        return map;
    }

    private static string Quote(string text) => TensorNames.Quote(Encoding.UTF8.GetBytes(text));

    private static bool IsInside(string file)
    {
        if (file.Contains('\0') || file.Contains('\\'))
        {
            return false;
        }
        foreach (Range part in file.AsSpan().Split('/'))
        {
            if (file.AsSpan()[part] is "" or "." or "..")
            {
                return false;
            }
        }
        return true;
    }
}
