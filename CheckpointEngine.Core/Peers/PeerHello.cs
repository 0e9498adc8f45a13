using System.Buffers;
using System.Diagnostics.CodeAnalysis;
using System.Text.Json;

namespace CheckpointEngine.Peers;

/// <summary>The payload of <see cref="PeerMessage.Hello"/>, JSON: unknown members are ignored, so that later versions can say more.</summary>
/// <remarks>Read and written member by member: a serializer would be a hundred kilobytes of the C library.</remarks>
internal sealed record PeerHello
{
    /// <summary>The version of this conversation.</summary>
    internal const int CurrentProtocol = 1;

    internal int Protocol { get; init; }

    /// <summary>The sender's engine version.</summary>
    internal string Version { get; init; } = "";

    /// <summary>The sender's boot id: two processes with the same one share a host.</summary>
    internal string HostId { get; init; } = "";

    /// <summary>What tells the sender, a server, from every other: random, and the same at all its addresses.</summary>
    internal string Instance { get; init; } = "";

    /// <summary>32 random bytes in hexadecimal.</summary>
    internal string Nonce { get; init; } = "";

    /// <summary>Whether the sender (a server) wants the token proved.</summary>
    internal bool TokenRequired { get; init; }

    /// <summary>The digest that the sender (a server) makes: <c>xxh3</c>, <c>sha256</c> or <c>none</c>.</summary>
    internal string Digest { get; init; } = "none";

    /// <summary>Whether the sender's (a server's) data port speaks TLS and nothing else.</summary>
    internal bool DataTls { get; init; }

    internal byte[] ToJson()
    {
        var output = new ArrayBufferWriter<byte>(512);
        using (var writer = new Utf8JsonWriter(output))
        {
            writer.WriteStartObject();
            writer.WriteNumber("protocol"u8, Protocol);
            writer.WriteString("version"u8, Version);
            writer.WriteString("host_id"u8, HostId);
            writer.WriteString("instance"u8, Instance);
            writer.WriteString("nonce"u8, Nonce);
            writer.WriteBoolean("token_required"u8, TokenRequired);
            writer.WriteString("digest"u8, Digest);
            if (DataTls)
            {
                writer.WriteBoolean("data_tls"u8, true);
            }
            writer.WriteEndObject();
        }
        return output.WrittenSpan.ToArray();
    }

    /// <summary>Reads one; false when it is no JSON object, or a member has another type, null among them.</summary>
    internal static bool TryParse(ReadOnlySpan<byte> json, [NotNullWhen(true)] out PeerHello? hello)
    {
        hello = null;
        var read = new PeerHello();
        var reader = new Utf8JsonReader(json);
        try
        {
            if (!reader.Read() || reader.TokenType != JsonTokenType.StartObject)
            {
                return false;
            }
            while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
            {
                read = ReadMember(ref reader, read);
            }
            if (reader.Read())
            {
                return false;
            }
        }
        catch (Exception malformed) when (malformed is JsonException or InvalidOperationException or FormatException)
        {
            return false;       // InvalidOperationException: a value of another type, or text that is not UTF-8
        }
        hello = read;
        return true;
    }

    private static PeerHello ReadMember(ref Utf8JsonReader reader, PeerHello read)
    {
        if (reader.ValueTextEquals("protocol"u8))
        {
            reader.Read();
            return read with { Protocol = reader.GetInt32() };
        }
        if (reader.ValueTextEquals("version"u8))
        {
            return read with { Version = ReadText(ref reader) };
        }
        if (reader.ValueTextEquals("host_id"u8))
        {
            return read with { HostId = ReadText(ref reader) };
        }
        if (reader.ValueTextEquals("instance"u8))
        {
            return read with { Instance = ReadText(ref reader) };
        }
        if (reader.ValueTextEquals("nonce"u8))
        {
            return read with { Nonce = ReadText(ref reader) };
        }
        if (reader.ValueTextEquals("token_required"u8))
        {
            reader.Read();
            return read with { TokenRequired = reader.GetBoolean() };
        }
        if (reader.ValueTextEquals("data_tls"u8))
        {
            reader.Read();
            return read with { DataTls = reader.GetBoolean() };
        }
        if (reader.ValueTextEquals("digest"u8))
        {
            return read with { Digest = ReadText(ref reader) };
        }
        reader.Read();
        reader.Skip();
        return read;
    }

    private static string ReadText(ref Utf8JsonReader reader)
    {
        reader.Read();
        return reader.GetString() ?? throw new JsonException("null");
    }
}
