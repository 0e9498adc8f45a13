using System.Buffers.Binary;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>The header of a safetensors file: which tensor lies where in the data section behind it.</summary>
/// <remarks>
/// Immutable; any number of threads. A file is 8 bytes N (little-endian), N bytes of JSON, then the data section that the tensors cover
/// without gap or overlap. Source: the format description of huggingface/safetensors.
/// </remarks>
public sealed class SafetensorsHeader
{
    /// <summary>The longest header in bytes, the format's own limit.</summary>
    public const int MaxHeaderBytes = 100_000_000;

    /// <summary>Bytes before the JSON: its length.</summary>
    internal const int PrefixBytes = 8;

    /// <summary>The most dimensions that a tensor may have; numpy's limit, and far above what models use.</summary>
    internal const int MaxDimensions = 64;

    internal SafetensorsHeader(TensorTable tensors, IReadOnlyDictionary<string, string> metadata, long dataBytes)
    {
        Tensors = tensors;
        Metadata = metadata;
        DataBytes = dataBytes;
    }

    /// <summary>
    /// The tensors by rising offset (where some are empty: those first, then by name); offsets count from the start of the data section,
    /// slots are as long as the data.
    /// </summary>
    public TensorTable Tensors { get; }

    /// <summary>The entries of <c>__metadata__</c>.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>Bytes of the data section.</summary>
    public long DataBytes { get; }

    /// <summary>Reads the length of the JSON from a file's first 8 bytes.</summary>
    /// <param name="prefix">The bytes.</param>
    /// <param name="fileBytes">The file's size.</param>
    /// <param name="fileName">What messages call the file.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>.</exception>
    public static int ReadJsonLength(ReadOnlySpan<byte> prefix, long fileBytes, string fileName)
    {
        if (prefix.Length < PrefixBytes || fileBytes < PrefixBytes)
        {
            ThrowHelper.ThrowInvalidData(fileName, Math.Min(prefix.Length, fileBytes), $"a safetensors file begins with 8 bytes of header length, and this one has {fileBytes:N0} bytes");
        }
        ulong length = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
        if (length > MaxHeaderBytes)
        {
            ThrowHelper.ThrowInvalidData(fileName, 0, $"a header of {length:N0} bytes is announced, and the format allows {MaxHeaderBytes:N0}; is it a safetensors file?");
        }
        if ((long)length > fileBytes - PrefixBytes)
        {
            ThrowHelper.ThrowInvalidData(fileName, 0, $"a header of {length:N0} bytes is announced, and only {fileBytes - PrefixBytes:N0} follow; the file is truncated");
        }
        return (int)length;
    }

    /// <summary>Reads a header.</summary>
    /// <param name="headerJson">The JSON, without the 8 bytes before it.</param>
    /// <param name="dataBytes">Bytes of the data section: what the file has behind the JSON.</param>
    /// <param name="fileName">What messages call the file.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: file, byte offset in the file or tensor, and the rule. No other exception comes, whatever the input.</exception>
    public static SafetensorsHeader Parse(ReadOnlySpan<byte> headerJson, long dataBytes, string fileName)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(dataBytes);
        using var builder = new TensorTableBuilder();
        var parser = new SafetensorsHeaderParser(headerJson, dataBytes, fileName, builder);
        Dictionary<string, string> metadata = parser.Parse();
        return new SafetensorsHeader(SafetensorsOrder.SortAndCheck(builder.Build(), dataBytes, fileName), metadata, dataBytes);
    }

    /// <summary>Reads the header of a whole file in memory.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>.</exception>
    public static SafetensorsHeader ParseFile(ReadOnlySpan<byte> file, string fileName)
    {
        int jsonBytes = ReadJsonLength(file, file.Length, fileName);
        return Parse(file.Slice(PrefixBytes, jsonBytes), file.Length - PrefixBytes - jsonBytes, fileName);
    }
}
