using System.Buffers;
using System.Text.Json;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>The small bodies of the handshake port: fixed texts, notifications, and what a listener needs to know of the others.</summary>
/// <remarks>Source: docs/mooncake-wire.md; captures 02, 03, 33, 34.</remarks>
internal static class HandshakeBodies
{
    internal static ReadOnlySpan<byte> EmptyObject => "{}\n"u8;

    internal static ReadOnlySpan<byte> ProbeReply => "{\"status\":\"success\"}\n"u8;

    internal static ReadOnlySpan<byte> NotifyReply => "{\"name\":\"\",\"notify_msg\":\"success\"}\n"u8;

    internal static void WriteNotify(IBufferWriter<byte> output, string name, string message)
    {
        using (var writer = new Utf8JsonWriter(output, HandshakeJson.WriterOptions))
        {
            writer.WriteStartObject();
            writer.WriteString("name"u8, name);
            writer.WriteString("notify_msg"u8, message);
            writer.WriteEndObject();
        }
        output.Write("\n"u8);
    }

    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: no object, or a text that is none.</exception>
    internal static (string Name, string Message) ReadNotify(ReadOnlySequence<byte> body) => ReadTexts(body, "name"u8, "notify_msg"u8);

    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: no object, or a text that is none.</exception>
    internal static string ReadProbeStatus(ReadOnlySequence<byte> body) => ReadTexts(body, "status"u8, default).First;

    /// <summary>Checks that a body is one JSON object and no more.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>.</exception>
    internal static void CheckObject(ReadOnlySequence<byte> body) => ReadTexts(body, default, default);

    /// <summary>
    /// The protocol that the asker's descriptor names, null when it is neither tcp nor rdma or the body is something else: any JSON will do, as
    /// in Mooncake, which looks at none of it.
    /// </summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: no JSON.</exception>
    internal static string? ReadAskerProtocol(ReadOnlySequence<byte> body)
    {
        var reader = new Utf8JsonReader(Contiguous(body), HandshakeJson.ReaderOptions);
        string? protocol = null;
        try
        {
            while (reader.Read())
            {
                if (reader.CurrentDepth == 1 && reader.TokenType == JsonTokenType.PropertyName && reader.ValueTextEquals("protocol"u8))
                {
                    reader.Read();
                    protocol = reader.TokenType != JsonTokenType.String ? null
                        : reader.ValueTextEquals("tcp"u8) ? SegmentDescriptor.TcpProtocol
                        : reader.ValueTextEquals("rdma"u8) ? SegmentDescriptor.RdmaProtocol
                        : null;
                }
            }
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            HandshakeJson.ThrowMalformed(ref reader, e);
        }
        return protocol;
    }

    // Over several segments the reader of .NET 10 fails with IndexOutOfRangeException on a literal cut short ("tr", split behind the t).
    private static ReadOnlySpan<byte> Contiguous(in ReadOnlySequence<byte> body) => body.IsSingleSegment ? body.FirstSpan : body.ToArray();

    private static (string First, string Second) ReadTexts(ReadOnlySequence<byte> body, ReadOnlySpan<byte> firstKey, ReadOnlySpan<byte> secondKey)
    {
        var reader = new Utf8JsonReader(Contiguous(body), HandshakeJson.ReaderOptions);
        string first = "", second = "";
        try
        {
            reader.Read();
            if (reader.TokenType != JsonTokenType.StartObject)
            {
                return HandshakeJson.ThrowWrongType<(string, string)>(ref reader, "the body", "an object");
            }
            while (HandshakeJson.NextKey(ref reader))
            {
                if (!firstKey.IsEmpty && reader.ValueTextEquals(firstKey))
                {
                    reader.Read();
                    first = HandshakeJson.ReadString(ref reader, "a text");
                }
                else if (!secondKey.IsEmpty && reader.ValueTextEquals(secondKey))
                {
                    reader.Read();
                    second = HandshakeJson.ReadString(ref reader, "a text");
                }
                else
                {
                    reader.Skip();
                }
            }
            reader.Read();   // throws on what follows the object
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            HandshakeJson.ThrowMalformed(ref reader, e);
        }
        return (first, second);
    }
}
