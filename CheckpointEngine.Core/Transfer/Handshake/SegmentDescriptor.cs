using System.Globalization;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>What a transfer process tells about itself: transport, ports, registered regions, devices.</summary>
/// <remarks>
/// Immutable by convention: nobody writes to the arrays; any number of threads. As read from a peer it is well typed and nothing more, see
/// <see cref="Validate"/>. Source: docs/mooncake-wire.md.
/// </remarks>
internal sealed class SegmentDescriptor
{
    /// <summary><see cref="Protocol"/> of a process whose data port speaks TCP.</summary>
    internal const string TcpProtocol = "tcp";

    /// <summary><see cref="Protocol"/> of a process that is read over RDMA.</summary>
    internal const string RdmaProtocol = "rdma";

    /// <summary>The owner's <c>host:port</c>, by its own account. Not followed by this engine: see <see cref="GetTcpDataEndpoint"/>.</summary>
    internal string Name { get; init; } = "";

    /// <summary>The transport: <see cref="TcpProtocol"/>, <see cref="RdmaProtocol"/>, or one that this engine does not speak.</summary>
    internal string Protocol { get; init; } = "";

    /// <summary>Port for reads and writes by address; 0 over RDMA.</summary>
    internal int TcpDataPort { get; init; }

    /// <summary>2 and above: every request is answered by a status; below: plain framing. 0 when the peer does not say.</summary>
    internal int TcpProtoVersion { get; init; }

    /// <summary>The registered regions.</summary>
    internal SegmentBuffer[] Buffers { get; init; } = [];

    /// <summary>rdma: the devices; the keys of a buffer are in this order.</summary>
    internal SegmentDevice[] Devices { get; init; } = [];

    /// <summary>rdma: which devices are near which memory location.</summary>
    internal DeviceAffinity[] PriorityMatrix { get; init; } = [];

    /// <summary>When the owner wrote it, its local time; informative, empty when it does not say.</summary>
    internal string Timestamp { get; init; } = "";

    /// <summary>rdma: <c>address:port</c> for NIC paths in place of <see cref="Name"/>; empty when there is none.</summary>
    internal string RdmaServerName { get; init; } = "";

    /// <summary>What one of our own processes says about itself; null when the peer is another implementation.</summary>
    internal EngineAnnouncement? Engine { get; init; }

    /// <summary>A time in the form of <see cref="Timestamp"/>.</summary>
    internal static string FormatTimestamp(DateTimeOffset time) => time.ToString("yyyy-MM-dd HH:mm:ss.ffffff", CultureInfo.InvariantCulture);

    /// <summary>
    /// Where the data port is: at the host that was opened, whatever host <see cref="Name"/> gives, so that a peer cannot send us elsewhere.
    /// </summary>
    /// <param name="opened">The name this descriptor was fetched by.</param>
    internal EndpointName GetTcpDataEndpoint(EndpointName opened) => new(opened.Host, TcpDataPort);

    /// <summary>Checks that a transfer over tcp or rdma can start from this descriptor; what it lets pass, a Mooncake peer would too.</summary>
    /// <param name="anyProtocol">Let transports pass that this engine does not speak, and look at their buffers only.</param>
    /// <exception cref="CheckpointEngineException">
    /// <see cref="CheckpointError.NotSupported"/>: another transport. <see cref="CheckpointError.InvalidData"/>: a buffer without name, address
    /// or length, a data port out of range, a device without name or GID, or keys that do not match the devices.
    /// </exception>
    /// <remarks>
    /// Source: docs/mooncake-wire.md. An rdma buffer without keys is refused, as by all releases but the newest.
    /// </remarks>
    internal void Validate(bool anyProtocol = false)
    {
        switch (Protocol)
        {
            case TcpProtocol:
                if (TcpDataPort is < 1 or > ushort.MaxValue)
                {
                    ThrowHelper.Throw(CheckpointError.InvalidData, $"segment descriptor: tcp_data_port {TcpDataPort} is none from 1 to 65535");
                }
                break;
            case RdmaProtocol:
                ValidateDevices();
                break;
            case not "" when anyProtocol:
                break;
            default:
                ThrowHelper.Throw(Protocol.Length == 0 ? CheckpointError.InvalidData : CheckpointError.NotSupported,
                    $"segment descriptor: protocol '{HandshakeJson.Printable(Protocol)}' is neither tcp nor rdma; start the peer with one of them");
                break;
        }
        for (int i = 0; i < Buffers.Length; i++)
        {
            ValidateBuffer(i, Buffers[i]);
        }
    }

    private void ValidateDevices()
    {
        for (int i = 0; i < Devices.Length; i++)
        {
            if (Devices[i].Name.Length == 0 || Devices[i].Gid.Length == 0)
            {
                ThrowHelper.Throw(CheckpointError.InvalidData,
                    $"segment descriptor: device {i} of {Devices.Length} has no {(Devices[i].Name.Length == 0 ? "name" : "gid")}");
            }
        }
    }

    private void ValidateBuffer(int index, in SegmentBuffer buffer)
    {
        if (buffer.Name.Length == 0 || buffer.Address == 0 || buffer.LengthBytes == 0)
        {
            string missing = buffer.Name.Length == 0 ? "name" : buffer.Address == 0 ? "addr" : "length";
            ThrowHelper.Throw(CheckpointError.InvalidData, $"segment descriptor: buffer {index} of {Buffers.Length} has no {missing}");
        }
        if (Protocol == RdmaProtocol
            && (buffer.RemoteKeys.Length == 0 || buffer.RemoteKeys.Length != Devices.Length || buffer.LocalKeys.Length != buffer.RemoteKeys.Length))
        {
            ThrowHelper.Throw(CheckpointError.InvalidData,
                $"segment descriptor: buffer {index} has {buffer.RemoteKeys.Length} rkeys and {buffer.LocalKeys.Length} lkeys for {Devices.Length} devices");
        }
    }
}
