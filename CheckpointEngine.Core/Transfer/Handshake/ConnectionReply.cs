using System.Buffers;
using System.Text.Json;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>The answer to a Connection message that does not connect.</summary>
internal static class ConnectionReply
{
    /// <summary>The reason that a process without RDMA gives.</summary>
    internal const string NoRdma = "no RDMA in this process; read it over tcp (MC_FORCE_TCP=1)";

    /// <summary>
    /// Writes a handshake object that is empty but for the reason: what a TCP-only Mooncake process answers, which leaves even that empty.
    /// </summary>
    /// <param name="output">Gets the JSON text with a newline.</param>
    /// <param name="reason">Not empty: an empty one means accepted.</param>
    /// <remarks>Source: docs/mooncake-wire.md; capture 05.</remarks>
    internal static void WriteRefusal(IBufferWriter<byte> output, string reason)
    {
        using (var writer = new Utf8JsonWriter(output, HandshakeJson.WriterOptions))
        {
            writer.WriteStartObject();
            writer.WriteString("local_gid"u8, ""u8);
            writer.WriteNumber("local_lid"u8, 0);
            writer.WriteString("local_nic_path"u8, ""u8);
            writer.WriteString("payload"u8, ""u8);
            writer.WriteString("peer_nic_path"u8, ""u8);
            writer.WriteStartArray("qp_num"u8);
            writer.WriteEndArray();
            writer.WriteString("reply_msg"u8, reason);
            writer.WriteEndObject();
        }
        output.Write("\n"u8);
    }
}
