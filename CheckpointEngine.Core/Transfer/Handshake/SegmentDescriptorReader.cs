using System.Text.Json;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>Reads the JSON of a segment descriptor.</summary>
/// <remarks>
/// Total: any bytes give a descriptor or a typed error, in memory proportional to the input. As in Mooncake, a missing key and null mean empty
/// or 0, of a key that is there twice the last counts, unknown keys are skipped; unlike there, a wrong type is an error and not the end of the
/// process. Any number of threads. Source: docs/mooncake-wire.md.
/// </remarks>
internal static class SegmentDescriptorReader
{
    // The longest frame holds 1.8 million real entries; at 40 bytes each in memory, four times as many would be 320 MB for "{}," from a stranger.
    private const int MaxBuffers = 2 * 1024 * 1024;
    private const int MaxDevices = 1024;
    private const int MaxLocations = 4096;
    private const int MaxTransports = 64;

    /// <summary>Reads one descriptor; white space may follow it, nothing else.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: the key, the offset and the reason.</exception>
    internal static SegmentDescriptor Read(ReadOnlySpan<byte> utf8Json)
    {
        var reader = new Utf8JsonReader(utf8Json, HandshakeJson.ReaderOptions);
        try
        {
            reader.Read();
            SegmentDescriptor descriptor = ReadDescriptor(ref reader);
            reader.Read();   // throws on what follows the object
            return descriptor;
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            HandshakeJson.ThrowMalformed(ref reader, e);
            return null!;
        }
    }

    /// <summary>Whether the text is JSON <c>null</c>: the answer of a process whose segment does not exist yet.</summary>
    internal static bool IsNull(ReadOnlySpan<byte> utf8Json) => utf8Json.Trim(" \t\r\n"u8).SequenceEqual("null"u8);

    private static SegmentDescriptor ReadDescriptor(ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartObject)
        {
            return HandshakeJson.ThrowWrongType<SegmentDescriptor>(ref reader, "the descriptor", "an object");
        }
        string name = "", protocol = "", timestamp = "", rdmaServerName = "";
        int dataPort = 0, protoVersion = 0;
        SegmentBuffer[] buffers = [];
        SegmentDevice[] devices = [];
        DeviceAffinity[] matrix = [];
        EngineAnnouncement? engine = null;
        while (HandshakeJson.NextKey(ref reader))
        {
            if (HandshakeJson.IsKey(ref reader, "name"u8))
            {
                name = HandshakeJson.ReadString(ref reader, "name");
            }
            else if (HandshakeJson.IsKey(ref reader, "protocol"u8))
            {
                protocol = HandshakeJson.ReadString(ref reader, "protocol");
            }
            else if (HandshakeJson.IsKey(ref reader, "tcp_data_port"u8))
            {
                dataPort = HandshakeJson.ReadInt32(ref reader, "tcp_data_port");
            }
            else if (HandshakeJson.IsKey(ref reader, "tcp_proto_version"u8))
            {
                protoVersion = HandshakeJson.ReadInt32(ref reader, "tcp_proto_version");
            }
            else if (HandshakeJson.IsKey(ref reader, "buffers"u8))
            {
                buffers = ReadBuffers(ref reader);
            }
            else if (HandshakeJson.IsKey(ref reader, "devices"u8))
            {
                devices = ReadDevices(ref reader);
            }
            else if (HandshakeJson.IsKey(ref reader, "priority_matrix"u8))
            {
                matrix = ReadMatrix(ref reader);
            }
            else if (HandshakeJson.IsKey(ref reader, "timestamp"u8))
            {
                timestamp = HandshakeJson.ReadString(ref reader, "timestamp");
            }
            else if (HandshakeJson.IsKey(ref reader, "rdma_server_name"u8))
            {
                rdmaServerName = HandshakeJson.ReadString(ref reader, "rdma_server_name");
            }
            else if (HandshakeJson.IsKey(ref reader, "checkpoint_engine"u8))
            {
                engine = ReadEngine(ref reader);
            }
            else
            {
                reader.Skip();
            }
        }
        return new SegmentDescriptor
        {
            Name = name,
            Protocol = protocol,
            TcpDataPort = dataPort,
            TcpProtoVersion = protoVersion,
            Buffers = buffers,
            Devices = devices,
            PriorityMatrix = matrix,
            Timestamp = timestamp,
            RdmaServerName = rdmaServerName,
            Engine = engine,
        };
    }

    private static SegmentBuffer[] ReadBuffers(ref Utf8JsonReader reader)
    {
        if (!HandshakeJson.TryEnter(ref reader, JsonTokenType.StartArray, "buffers"))
        {
            return [];
        }
        var buffers = new List<SegmentBuffer>();
        var keys = new List<uint>();
        string name = "";
        while (HandshakeJson.NextElement(ref reader))
        {
            HandshakeJson.CheckCount(ref reader, buffers.Count, MaxBuffers, "buffers");
            SegmentBuffer buffer = ReadBuffer(ref reader, name, keys);
            name = buffer.Name;
            buffers.Add(buffer);
        }
        return [.. buffers];
    }

    private static SegmentBuffer ReadBuffer(ref Utf8JsonReader reader, string previousName, List<uint> keys)
    {
        ulong address = 0, length = 0;
        string name = "";
        uint[] localKeys = [], remoteKeys = [];
        if (HandshakeJson.TryEnter(ref reader, JsonTokenType.StartObject, "an element of buffers"))
        {
            while (HandshakeJson.NextKey(ref reader))
            {
                if (HandshakeJson.IsKey(ref reader, "addr"u8))
                {
                    address = HandshakeJson.ReadUInt64(ref reader, "addr");
                }
                else if (HandshakeJson.IsKey(ref reader, "length"u8))
                {
                    length = HandshakeJson.ReadUInt64(ref reader, "length");
                }
                else if (HandshakeJson.IsKey(ref reader, "name"u8))
                {
                    name = HandshakeJson.ReadRepeatedString(ref reader, "name of a buffer", previousName);
                }
                else if (HandshakeJson.IsKey(ref reader, "lkey"u8))
                {
                    localKeys = HandshakeJson.ReadUInt32s(ref reader, "lkey", MaxDevices, keys);
                }
                else if (HandshakeJson.IsKey(ref reader, "rkey"u8))
                {
                    remoteKeys = HandshakeJson.ReadUInt32s(ref reader, "rkey", MaxDevices, keys);
                }
                else
                {
                    reader.Skip();
                }
            }
        }
        return new SegmentBuffer(address, length, name, localKeys, remoteKeys);
    }

    private static SegmentDevice[] ReadDevices(ref Utf8JsonReader reader)
    {
        if (!HandshakeJson.TryEnter(ref reader, JsonTokenType.StartArray, "devices"))
        {
            return [];
        }
        var devices = new List<SegmentDevice>();
        while (HandshakeJson.NextElement(ref reader))
        {
            HandshakeJson.CheckCount(ref reader, devices.Count, MaxDevices, "devices");
            devices.Add(ReadDevice(ref reader));
        }
        return [.. devices];
    }

    private static SegmentDevice ReadDevice(ref Utf8JsonReader reader)
    {
        string name = "", gid = "";
        uint lid = 0;
        if (HandshakeJson.TryEnter(ref reader, JsonTokenType.StartObject, "an element of devices"))
        {
            while (HandshakeJson.NextKey(ref reader))
            {
                if (HandshakeJson.IsKey(ref reader, "name"u8))
                {
                    name = HandshakeJson.ReadString(ref reader, "name of a device");
                }
                else if (HandshakeJson.IsKey(ref reader, "lid"u8))
                {
                    lid = HandshakeJson.ReadUInt32(ref reader, "lid");
                }
                else if (HandshakeJson.IsKey(ref reader, "gid"u8))
                {
                    gid = HandshakeJson.ReadString(ref reader, "gid");
                }
                else
                {
                    reader.Skip();
                }
            }
        }
        return new SegmentDevice(name, lid, gid);
    }

    private static DeviceAffinity[] ReadMatrix(ref Utf8JsonReader reader)
    {
        if (!HandshakeJson.TryEnter(ref reader, JsonTokenType.StartObject, "priority_matrix"))
        {
            return [];
        }
        var byLocation = new Dictionary<string, DeviceAffinity>(StringComparer.Ordinal);
        while (HandshakeJson.NextKey(ref reader))
        {
            HandshakeJson.CheckCount(ref reader, byLocation.Count, MaxLocations, "locations in priority_matrix");
            string location = reader.GetString()!;
            reader.Read();
            string[] preferred = [], others = [];
            if (HandshakeJson.TryEnter(ref reader, JsonTokenType.StartArray, "an entry of priority_matrix"))
            {
                for (int i = 0; HandshakeJson.NextElement(ref reader); i++)
                {
                    if (i > 1)
                    {
                        reader.Skip();
                        continue;
                    }
                    string[] names = HandshakeJson.ReadStrings(ref reader, "a device list of priority_matrix", MaxDevices);
                    (preferred, others) = i == 0 ? (names, others) : (preferred, names);
                }
            }
            byLocation[location] = new DeviceAffinity(location, preferred, others);
        }
        return [.. byLocation.Values];
    }

    private static EngineAnnouncement? ReadEngine(ref Utf8JsonReader reader)
    {
        if (!HandshakeJson.TryEnter(ref reader, JsonTokenType.StartObject, "checkpoint_engine"))
        {
            return null;
        }
        var engine = new EngineAnnouncement { Protocol = 0 };
        while (HandshakeJson.NextKey(ref reader))
        {
            if (HandshakeJson.IsKey(ref reader, "protocol"u8))
            {
                engine = engine with { Protocol = HandshakeJson.ReadInt32(ref reader, "protocol of checkpoint_engine") };
            }
            else if (HandshakeJson.IsKey(ref reader, "peer"u8))
            {
                engine = engine with { Peer = HandshakeJson.ReadString(ref reader, "peer") };
            }
            else if (HandshakeJson.IsKey(ref reader, "peer_tls"u8))
            {
                engine = engine with { PeerTls = HandshakeJson.ReadBoolean(ref reader, "peer_tls") };
            }
            else if (HandshakeJson.IsKey(ref reader, "data_tls"u8))
            {
                engine = engine with { DataTls = HandshakeJson.ReadBoolean(ref reader, "data_tls") };
            }
            else if (HandshakeJson.IsKey(ref reader, "host_id"u8))
            {
                engine = engine with { HostId = HandshakeJson.ReadString(ref reader, "host_id") };
            }
            else if (HandshakeJson.IsKey(ref reader, "local_socket"u8))
            {
                engine = engine with { LocalSocket = HandshakeJson.ReadString(ref reader, "local_socket") };
            }
            else if (HandshakeJson.IsKey(ref reader, "transports"u8))
            {
                engine = engine with { Transports = HandshakeJson.ReadStrings(ref reader, "transports", MaxTransports) };
            }
            else if (HandshakeJson.IsKey(ref reader, "rails"u8))
            {
                engine = engine with { Rails = HandshakeJson.ReadStrings(ref reader, "rails", MaxDevices) };
            }
            else if (HandshakeJson.IsKey(ref reader, "token_required"u8))
            {
                engine = engine with { TokenRequired = HandshakeJson.ReadBoolean(ref reader, "token_required") };
            }
            else if (HandshakeJson.IsKey(ref reader, "version"u8))
            {
                engine = engine with { Version = HandshakeJson.ReadString(ref reader, "version") };
            }
            else
            {
                reader.Skip();
            }
        }
        return engine;
    }
}
