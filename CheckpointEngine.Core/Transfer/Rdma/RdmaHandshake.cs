using System.Buffers;
using System.Globalization;
using System.Text.Json;
using CheckpointEngine.Internal;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>The handshake object: what two ends tell each other to connect queue pairs.</summary>
/// <remarks>As read it is well typed and bounded, and nothing more. Source: docs/mooncake-wire.md, section 5; captures 52 to 62.</remarks>
internal sealed record RdmaHandshake
{
    /// <summary>The most queue pairs of one endpoint; Mooncake has 2 unless told otherwise.</summary>
    internal const int MaxQueuePairs = 64;

    private const int MaxPathLength = 1024;

    /// <summary>The sender's NIC path: its server name, @, its device's name.</summary>
    internal string LocalNicPath { get; init; } = "";

    /// <summary>The receiver's.</summary>
    internal string PeerNicPath { get; init; } = "";

    /// <summary>The sender's queue pair numbers; the one at i connects to the receiver's at i.</summary>
    internal uint[] QueuePairs { get; init; } = [];

    /// <summary>The sender's GID as the wire writes it; empty from Mooncake before v0.3.11.</summary>
    internal string LocalGid { get; init; } = "";

    internal uint LocalLid { get; init; }

    /// <summary>Null: the sender does not know the step. True: this is the acknowledgement itself. False: it knows the step.</summary>
    internal bool? ReadyAck { get; init; }

    /// <summary>Why it was refused; empty when it was accepted.</summary>
    internal string ReplyMessage { get; init; } = "";

    /// <summary>Ours: the sender has destroyed these queue pairs.</summary>
    internal bool IsEnd { get; init; }

    /// <summary>Ours: that the sender has the key of a lease; null when it proves nothing.</summary>
    internal RdmaProof? Proof { get; init; }

    internal void Write(IBufferWriter<byte> output)
    {
        using (var writer = new Utf8JsonWriter(output, HandshakeJson.WriterOptions))
        {
            writer.WriteStartObject();
            if (IsEnd)
            {
                writer.WriteBoolean("checkpoint_engine_end"u8, true);
            }
            if (Proof is not null)
            {
                writer.WriteString("checkpoint_engine_proof"u8, Proof.ToWireText());
            }
            writer.WriteString("local_gid"u8, LocalGid);
            writer.WriteNumber("local_lid"u8, LocalLid);
            writer.WriteString("local_nic_path"u8, LocalNicPath);
            writer.WriteString("payload"u8, ""u8);
            writer.WriteString("peer_nic_path"u8, PeerNicPath);
            writer.WriteStartArray("qp_num"u8);
            foreach (uint number in QueuePairs)
            {
                writer.WriteNumberValue(number);
            }
            writer.WriteEndArray();
            if (ReadyAck is bool ready)
            {
                writer.WriteBoolean("ready_ack"u8, ready);
            }
            writer.WriteString("reply_msg"u8, ReplyMessage);
            writer.WriteEndObject();
        }
        output.Write("\n"u8);
    }

    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: no object, a member of another type, or more than there may be.</exception>
    internal static RdmaHandshake Read(ReadOnlySpan<byte> json)
    {
        var reader = new Utf8JsonReader(json, HandshakeJson.ReaderOptions);
        var handshake = new RdmaHandshake();
        try
        {
            reader.Read();
            if (reader.TokenType != JsonTokenType.StartObject)
            {
                return HandshakeJson.ThrowWrongType<RdmaHandshake>(ref reader, "the handshake", "an object");
            }
            while (HandshakeJson.NextKey(ref reader))
            {
                if (HandshakeJson.IsKey(ref reader, "local_nic_path"u8))
                {
                    handshake = handshake with { LocalNicPath = ReadPath(ref reader, "local_nic_path") };
                }
                else if (HandshakeJson.IsKey(ref reader, "peer_nic_path"u8))
                {
                    handshake = handshake with { PeerNicPath = ReadPath(ref reader, "peer_nic_path") };
                }
                else if (HandshakeJson.IsKey(ref reader, "qp_num"u8))
                {
                    handshake = handshake with { QueuePairs = HandshakeJson.ReadUInt32s(ref reader, "qp_num", MaxQueuePairs, []) };
                }
                else if (HandshakeJson.IsKey(ref reader, "local_gid"u8))
                {
                    handshake = handshake with { LocalGid = HandshakeJson.ReadString(ref reader, "local_gid") };
                }
                else if (HandshakeJson.IsKey(ref reader, "local_lid"u8))
                {
                    handshake = handshake with { LocalLid = HandshakeJson.ReadUInt32(ref reader, "local_lid") };
                }
                else if (HandshakeJson.IsKey(ref reader, "ready_ack"u8))
                {
                    handshake = handshake with { ReadyAck = HandshakeJson.ReadBoolean(ref reader, "ready_ack") };
                }
                else if (HandshakeJson.IsKey(ref reader, "reply_msg"u8))
                {
                    handshake = handshake with { ReplyMessage = HandshakeJson.ReadString(ref reader, "reply_msg") };
                }
                else if (HandshakeJson.IsKey(ref reader, "checkpoint_engine_end"u8))
                {
                    handshake = handshake with { IsEnd = HandshakeJson.ReadBoolean(ref reader, "checkpoint_engine_end") };
                }
                else if (HandshakeJson.IsKey(ref reader, "checkpoint_engine_proof"u8))
                {
                    handshake = handshake with { Proof = ReadProof(ref reader) };
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
        return handshake;
    }

    /// <summary>The 16 bytes of a GID as the wire writes it: two-digit hexadecimal numbers joined by colons.</summary>
    internal static bool TryParseGid(ReadOnlySpan<char> text, Span<byte> gid)
    {
        if (text.Length != 16 * 3 - 1)
        {
            return false;
        }
        for (int i = 0; i < 16; i++)
        {
            // byte.TryParse takes a NUL behind the digits.
            if ((i != 15 && text[3 * i + 2] != ':')
                || !char.IsAsciiHexDigit(text[3 * i + 1])
                || !byte.TryParse(text.Slice(3 * i, 2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out gid[i]))
            {
                return false;
            }
        }
        return true;
    }

    private static RdmaProof? ReadProof(ref Utf8JsonReader reader)
    {
        string text = HandshakeJson.ReadString(ref reader, "checkpoint_engine_proof");
        if (text.Length == 0)
        {
            return null;
        }
        return RdmaProof.TryParse(text, out RdmaProof? proof)
            ? proof
            : ThrowHelper.Throw<RdmaProof>(CheckpointError.InvalidData, $"checkpoint_engine_proof has {text.Length:N0} characters that are no proof: 112 hexadecimal digits");
    }

    private static string ReadPath(ref Utf8JsonReader reader, string what)
    {
        string path = HandshakeJson.ReadString(ref reader, what);
        if (path.Length > MaxPathLength)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"{what} has {path.Length:N0} characters, more than the {MaxPathLength} of any NIC path");
        }
        return path;
    }
}
