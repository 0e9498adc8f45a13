using System.Buffers;
using System.Text.Json;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>Writes a segment descriptor as the real engine does: compact, keys in alphabetical order, one newline at the end.</summary>
/// <remarks>
/// Keys that only one protocol has are written for that protocol only; <c>timestamp</c>, <c>rdma_server_name</c> and <c>checkpoint_engine</c>
/// only when they say something. Any number of threads. Source: docs/mooncake-wire.md; captures 01 and 50.
/// </remarks>
internal static class SegmentDescriptorWriter
{
    internal static void Write(IBufferWriter<byte> output, SegmentDescriptor descriptor)
    {
        bool rdma = descriptor.Protocol == SegmentDescriptor.RdmaProtocol;
        using (var writer = new Utf8JsonWriter(output, HandshakeJson.WriterOptions))
        {
            writer.WriteStartObject();
            WriteBuffers(writer, descriptor.Buffers, rdma);
            if (descriptor.Engine is { } engine)
            {
                WriteEngine(writer, engine);
            }
            if (rdma)
            {
                WriteDevices(writer, descriptor.Devices);
            }
            writer.WriteString("name"u8, descriptor.Name);
            if (rdma)
            {
                WriteMatrix(writer, descriptor.PriorityMatrix);
            }
            writer.WriteString("protocol"u8, descriptor.Protocol);
            if (rdma && descriptor.RdmaServerName.Length != 0)
            {
                writer.WriteString("rdma_server_name"u8, descriptor.RdmaServerName);
            }
            writer.WriteNumber("tcp_data_port"u8, descriptor.TcpDataPort);
            writer.WriteNumber("tcp_proto_version"u8, descriptor.TcpProtoVersion);
            if (descriptor.Timestamp.Length != 0)
            {
                writer.WriteString("timestamp"u8, descriptor.Timestamp);
            }
            writer.WriteEndObject();
        }
        output.Write("\n"u8);
    }

    private static void WriteBuffers(Utf8JsonWriter writer, SegmentBuffer[] buffers, bool rdma)
    {
        writer.WriteStartArray("buffers"u8);
        foreach (SegmentBuffer buffer in buffers)
        {
            writer.WriteStartObject();
            writer.WriteNumber("addr"u8, buffer.Address);
            writer.WriteNumber("length"u8, buffer.LengthBytes);
            if (rdma)
            {
                WriteKeys(writer, "lkey"u8, buffer.LocalKeys);
            }
            writer.WriteString("name"u8, buffer.Name);
            if (rdma)
            {
                WriteKeys(writer, "rkey"u8, buffer.RemoteKeys);
            }
            writer.WriteEndObject();
        }
        writer.WriteEndArray();
    }

    private static void WriteKeys(Utf8JsonWriter writer, ReadOnlySpan<byte> name, uint[] keys)
    {
        writer.WriteStartArray(name);
        foreach (uint key in keys)
        {
            writer.WriteNumberValue(key);
        }
        writer.WriteEndArray();
    }

    private static void WriteDevices(Utf8JsonWriter writer, SegmentDevice[] devices)
    {
        writer.WriteStartArray("devices"u8);
        foreach (SegmentDevice device in devices)
        {
            writer.WriteStartObject();
            writer.WriteString("gid"u8, device.Gid);
            writer.WriteNumber("lid"u8, device.Lid);
            writer.WriteString("name"u8, device.Name);
            writer.WriteEndObject();
        }
        writer.WriteEndArray();
    }

    private static void WriteMatrix(Utf8JsonWriter writer, DeviceAffinity[] matrix)
    {
        writer.WriteStartObject("priority_matrix"u8);
        foreach (DeviceAffinity entry in matrix.OrderBy(entry => entry.Location, StringComparer.Ordinal))
        {
            writer.WriteStartArray(entry.Location);
            WriteStrings(writer, entry.Preferred);
            WriteStrings(writer, entry.Others);
            writer.WriteEndArray();
        }
        writer.WriteEndObject();
    }

    /// <summary>Writes the member <c>checkpoint_engine</c> with its name.</summary>
    internal static void WriteEngine(Utf8JsonWriter writer, EngineAnnouncement engine)
    {
        writer.WriteStartObject("checkpoint_engine"u8);
        if (engine.DataTls)
        {
            writer.WriteBoolean("data_tls"u8, true);
        }
        writer.WriteString("host_id"u8, engine.HostId);
        if (engine.LocalSocket.Length != 0)
        {
            writer.WriteString("local_socket"u8, engine.LocalSocket);
        }
        writer.WriteString("peer"u8, engine.Peer);
        if (engine.PeerTls)
        {
            writer.WriteBoolean("peer_tls"u8, true);
        }
        writer.WriteNumber("protocol"u8, engine.Protocol);
        if (engine.Rails.Length != 0)
        {
            writer.WritePropertyName("rails"u8);
            WriteStrings(writer, engine.Rails);
        }
        writer.WriteBoolean("token_required"u8, engine.TokenRequired);
        writer.WritePropertyName("transports"u8);
        WriteStrings(writer, engine.Transports);
        writer.WriteString("version"u8, engine.Version);
        writer.WriteEndObject();
    }

    private static void WriteStrings(Utf8JsonWriter writer, string[] items)
    {
        writer.WriteStartArray();
        foreach (string item in items)
        {
            writer.WriteStringValue(item);
        }
        writer.WriteEndArray();
    }
}
