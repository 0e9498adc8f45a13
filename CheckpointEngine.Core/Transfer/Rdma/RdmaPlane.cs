using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Internal;
using CheckpointEngine.Transfer.Handshake;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>This process's RDMA devices, open: what reads over them and what serves over them are made of it.</summary>
/// <remarks>Any number of threads. Disposed after all that was made of it.</remarks>
internal sealed partial class RdmaPlane : IAsyncDisposable
{
    private readonly ILogger _logger;
    private readonly RdmaEvents _events;
    private readonly Lock _lock = new();
    private readonly HashSet<string> _claims = new(StringComparer.Ordinal);
    private HandshakeListener? _ownListener;
    private EndpointName? _servedAt;

    private RdmaPlane(RdmaNic[] nics, ILogger logger)
    {
        Nics = nics;
        _logger = logger;
        _events = new RdmaEvents(nics, nic => Changed?.Invoke(nic), logger);
    }

    /// <summary>The ports of devices that are meant, in the order they are published; at least one. Those that cannot be used now stand last.</summary>
    internal RdmaNic[] Nics { get; }

    /// <summary>Why no device can be used now; null when one can.</summary>
    internal string? WhyNone => Usable.Length != 0 ? null : string.Join("; ", Nics.Select(nic => $"{nic.Name}: {nic.Failure}"));

    /// <summary>A device became usable, or its GIDs are others. On the thread of the devices' events: handlers do not wait, and do not throw.</summary>
    internal event Action<RdmaNic>? Changed;

    /// <summary>Those that carry something now, by their places.</summary>
    internal int[] Usable
    {
        get
        {
            var usable = new List<int>(Nics.Length);
            for (int device = 0; device < Nics.Length; device++)
            {
                if (Nics[device].Failure is null)
                {
                    usable.Add(device);
                }
            }
            return [.. usable];
        }
    }

    /// <summary>Opens the devices that the user means.</summary>
    /// <param name="devices">The user's list; null for what the environment says.</param>
    /// <param name="logger">Told of what is passed over.</param>
    /// <param name="whyNone">Why there is none, and what to do. Devices that may come up make a plane: <see cref="WhyNone"/>.</param>
    internal static RdmaPlane? TryOpen(string? devices, ILogger logger, out string? whyNone)
    {
        whyNone = null;
        RdmaDevices found = RdmaDevices.Discover(devices is null ? HcaSelection.FromEnvironment() : HcaSelection.FromList(devices, "--devices"), logger);
        var nics = new List<RdmaNic>();
        var lost = new List<RdmaDeviceHandle>();
        var taken = new HashSet<RdmaDevice>();
        foreach (RdmaMeantPort meant in found.Meant)
        {
            RdmaDeviceHandle? handle = null;
            try
            {
                handle = taken.Add(meant.Device) ? meant.Device.Handle! : meant.Device.Handle!.OpenAgain(meant.Name);
                nics.Add(RdmaNic.Open(meant, handle));
            }
            catch (CheckpointEngineException failure)
            {
                whyNone = failure.Message;
                lost.AddRange(handle is null ? [] : [handle]);
            }
        }
        lost.ForEach(static handle => handle.Dispose());        // last: other ports are opened by way of the first one's
        if (nics.Count == 0)
        {
            whyNone ??= found.WhyNone ?? "there is no RDMA device";
            return null;
        }
        whyNone = null;
        return new RdmaPlane([.. nics], logger);
    }

    /// <summary>Takes the name of the handshake listener that this process serves at.</summary>
    internal void ServeAt(EndpointName name) => _servedAt = name;

    /// <summary>The NIC path that a peer knows a device of ours by. A process that serves nobody listens for this alone: Mooncake before v0.3.11 connects back.</summary>
    internal string NicPath(RdmaNic nic, EndpointName peer)
    {
        lock (_lock)
        {
            if (_servedAt is null)
            {
                _ownListener = HandshakeListener.Start([new IPEndPoint(OwnAddressTowards(peer), 0)], new DevicesOnly(this), new HandshakeListenerOptions { Logger = _logger });
                _servedAt = EndpointName.FromEndPoint(_ownListener.EndPoints[0]);
            }
            return $"{_servedAt}@{nic.Name}";
        }
    }

    /// <summary>Takes a name that only one may use at a time.</summary>
    internal bool TryClaim(string name)
    {
        lock (_claims)
        {
            return _claims.Add(name);
        }
    }

    internal void Unclaim(string name)
    {
        lock (_claims)
        {
            _claims.Remove(name);
        }
    }

    /// <summary>Some devices as a descriptor has them.</summary>
    /// <param name="devices">Their places among <see cref="Nics"/>.</param>
    internal SegmentDevice[] DescribeDevices(int[] devices)
        => Array.ConvertAll(devices, device => new SegmentDevice(Nics[device].Name, (uint)Nics[device].Port.Lid, Nics[device].Gid.WireText));

    public async ValueTask DisposeAsync()
    {
        if (_ownListener is not null)
        {
            await _ownListener.DisposeAsync().ConfigureAwait(false);
        }
        _events.Dispose();
        Array.ForEach(Nics, nic => nic.Dispose());
    }

    /// <summary>The address that a peer sees this process at. No packet is sent: connecting a datagram socket only asks the routing table.</summary>
    internal static IPAddress OwnAddressTowards(EndpointName peer)
    {
        if (!IPAddress.TryParse(peer.Host, out IPAddress? address))
        {
            address = Dns.GetHostAddresses(peer.Host).FirstOrDefault() ?? throw new SocketException((int)SocketError.HostNotFound);
        }
        using var socket = new Socket(address.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
        socket.Connect(address, Math.Max(1, peer.Port));
        return ((IPEndPoint)socket.LocalEndPoint!).Address;
    }

    private sealed class DevicesOnly(RdmaPlane plane) : IHandshakeResponder
    {
        void IHandshakeResponder.WriteDescriptor(System.Buffers.IBufferWriter<byte> output, in PeerRequest request)
            => SegmentDescriptorWriter.Write(output, new SegmentDescriptor
            {
                Name = plane._servedAt.ToString()!,
                Protocol = SegmentDescriptor.RdmaProtocol,
                TcpProtoVersion = 1,
                Timestamp = SegmentDescriptor.FormatTimestamp(DateTimeOffset.Now),
                Devices = plane.DescribeDevices(plane.Usable),
                PriorityMatrix = RdmaAffinity.Matrix([], Array.ConvertAll(plane.Usable, device => plane.Nics[device].Name), new int[plane.Usable.Length], NumaDistances.Host, out _),
            });

        void IHandshakeResponder.OnNotify(string name, string message)
        {
        }

        void IHandshakeResponder.WriteConnectionReply(System.Buffers.IBufferWriter<byte> output, System.Buffers.ReadOnlySequence<byte> request, in PeerRequest peer)
            => ConnectionReply.WriteRefusal(output, "this process only reads");
    }
}
