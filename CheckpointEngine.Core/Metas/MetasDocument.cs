using System.Buffers;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas.Pickle;

namespace CheckpointEngine.Metas;

/// <summary>Metas as a file or a body whose format is not told beside it.</summary>
/// <remarks>Any number of threads.</remarks>
public static class MetasDocument
{
    /// <summary>Reads metas, a pickle if the first byte is 0x80, JSON if the first byte after white space is <c>{</c>.</summary>
    /// <param name="document">The whole document.</param>
    /// <exception cref="CheckpointEngineException">
    /// <see cref="CheckpointError.InvalidData"/>: neither of both, or not well-formed; <see cref="CheckpointError.WrongShape"/>:
    /// well-formed, but no metas.
    /// </exception>
    public static CheckpointMetas Read(ReadOnlySpan<byte> document)
        => DetectFormat(document) == MetasFormat.Pickle ? MetasPickleReader.Read(document) : MetasJsonReader.Read(document);

    /// <summary>Tells the format of metas by their first byte.</summary>
    /// <param name="document">The document or a beginning of it.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: neither of both.</exception>
    public static MetasFormat DetectFormat(ReadOnlySpan<byte> document)
    {
        int start = document.IndexOfAnyExcept(" \t\r\n"u8);
        if (document.Length != 0 && document[0] == PickleOpcode.Proto)
        {
            return MetasFormat.Pickle;
        }
        if (start < 0 || document[start] != '{')
        {
            string found = start < 0 ? "an empty document" : $"0x{document[start]:x2}";
            ThrowHelper.ThrowInvalidData("metas", Math.Max(start, 0),
                $"neither JSON, which begins with '{{', nor a pickle, which begins with 0x80, but {found}");
        }
        return MetasFormat.Json;
    }

    /// <summary>Writes metas in <paramref name="format"/>; a pickle in protocol 4.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: a tensor's name is not UTF-8.</exception>
    public static void Write(CheckpointMetas metas, MetasFormat format, IBufferWriter<byte> output)
    {
        if (format == MetasFormat.Pickle)
        {
            MetasPickleWriter.Write(metas, output);
        }
        else
        {
            MetasJsonWriter.Write(metas, output);
        }
    }
}
