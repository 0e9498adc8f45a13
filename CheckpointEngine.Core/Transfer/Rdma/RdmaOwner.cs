using CheckpointEngine.Internal;
using CheckpointEngine.Transfer.Handshake;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>An owner that is read over RDMA: its devices and keys, and which pairs of devices carry its bytes.</summary>
/// <remarks>
/// Any number of threads. Two lanes share a pair between our own; a plain peer knows one endpoint a pair. Pairs on the same rail (device i with device i)
/// come first, the others are for when those fail. Lanes take work as they finish it, so a faster pair carries more.
/// </remarks>
internal sealed partial class RdmaOwner
{
    // A descriptor of more would be beyond any host's memory and devices.
    private const int MaxDevices = 64;

    // While one lane hashes what has come, the device is busy with the other's.
    private const int LanesPerPair = 2;

    private readonly ILogger _logger;
    private readonly RemoteRegions _regions;
    private readonly Device[] _devices;
    private readonly int[] _remoteCosts;
    private readonly Lock _lock = new();
    private readonly LocalDeviceState _stateOf;
    private DevicePairs? _pairs;
    private bool _hasTakenAway;

    private sealed class Device(string name, byte[] gid, uint lid)
    {
        internal string Name { get; } = name;

        internal byte[] Gid { get; } = gid;

        internal uint Lid { get; } = lid;
    }

    private RdmaOwner(RdmaPlane plane, RdmaLocalMemory memory, EndpointName name, bool isOurs, string serverName, TimeSpan stallTimeout, Device[] devices, int[] remoteCosts, RemoteRegions regions, RdmaKey? key, ILogger logger)
    {
        Key = key;
        _remoteCosts = remoteCosts;
        _stateOf = StateOf;
        Plane = plane;
        Memory = memory;
        Name = name;
        IsOurs = isOurs;
        ServerName = serverName;
        StallTimeout = stallTimeout;
        _devices = devices;
        _regions = regions;
        _logger = logger;
    }

    internal RdmaPlane Plane { get; }

    /// <summary>What it is read into.</summary>
    internal RdmaLocalMemory Memory { get; }

    /// <summary>Where its handshake port is: the name that was opened.</summary>
    internal EndpointName Name { get; }

    /// <summary>Whether it is one of our own, which takes word of an end and needs no acknowledgement.</summary>
    internal bool IsOurs { get; }

    /// <summary>What connecting is proved with, at both ends; null: nothing is.</summary>
    internal RdmaKey? Key { get; }

    /// <summary>What stands before the @ of its NIC paths.</summary>
    internal string ServerName { get; }

    internal TimeSpan StallTimeout { get; }

    /// <summary>Whether the owner has taken away what was read: no other way to it is of use.</summary>
    internal bool HasTakenAway => Volatile.Read(ref _hasTakenAway);

    /// <summary>Lanes that are worth having now: those of one pair for each device of the side that has more.</summary>
    internal int Preferred => Pairs.Preferred(_stateOf);

    /// <summary>Why there is no pair left; null while there is one.</summary>
    internal string? Failure => Volatile.Read(ref _pairs)?.Failure;

    // Made when the first lane is wanted: by then it is known where the bytes go.
    private DevicePairs Pairs
    {
        get
        {
            lock (_lock)
            {
                return _pairs ??= new DevicePairs(Memory.Costs(), _remoteCosts, IsOurs ? LanesPerPair : 1);
            }
        }
    }

    /// <summary>Checks a descriptor and takes it.</summary>
    /// <param name="plane">The devices here.</param>
    /// <param name="memory">What it is read into.</param>
    /// <param name="name">Where its handshake port is.</param>
    /// <param name="isOurs">Whether it is one of our own.</param>
    /// <param name="descriptor">What it says of itself.</param>
    /// <param name="stallTimeout">For each answer, and for reads.</param>
    /// <param name="logger">Told of pairs of devices that fail.</param>
    /// <param name="key">What connecting is proved with; null: nothing is.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>, <see cref="CheckpointError.NotSupported"/>.</exception>
    internal static RdmaOwner Make(RdmaPlane plane, RdmaLocalMemory memory, EndpointName name, bool isOurs, SegmentDescriptor descriptor, TimeSpan stallTimeout, ILogger logger, RdmaKey? key = null)
    {
        if (descriptor.Protocol != SegmentDescriptor.RdmaProtocol || descriptor.Devices.Length == 0)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported, $"read from {name} over RDMA: it offers no device");
        }
        if (descriptor.Devices.Length > MaxDevices)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"read from {name} over RDMA: it names {descriptor.Devices.Length:N0} devices, more than {MaxDevices}");
        }
        descriptor.Validate();
        int[] rails = RailsOf(descriptor);
        var devices = new Device[rails.Length];
        for (int i = 0; i < devices.Length; i++)
        {
            SegmentDevice device = descriptor.Devices[rails[i]];
            byte[] gid = new byte[GidTableEntry.GidLength];
            if (!RdmaHandshake.TryParseGid(device.Gid, gid))
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"read from {name} over RDMA: '{HandshakeJson.Printable(device.Gid)}' is no GID");
            }
            devices[i] = new Device(device.Name, gid, device.Lid);
        }
        int[] costs = RdmaAffinity.CostsByMatrix(descriptor.Buffers, descriptor.PriorityMatrix, Array.ConvertAll(devices, device => device.Name));
        var regions = new RemoteRegions(name, descriptor.Buffers, descriptor.Engine is { Rails.Length: > 0 } ? rails : null);
        return new RdmaOwner(plane, memory, name, isOurs, descriptor.RdmaServerName.Length != 0 ? descriptor.RdmaServerName : descriptor.Name,
            stallTimeout, devices, costs, regions, key, logger);
    }

    // One of ours tells devices in the order that Mooncake numbers them in, and that of the rails apart.
    private static int[] RailsOf(SegmentDescriptor descriptor)
    {
        var rails = new List<int>(descriptor.Devices.Length);
        foreach (string name in descriptor.Engine?.Rails ?? [])
        {
            int device = Array.FindIndex(descriptor.Devices, candidate => candidate.Name == name);
            if (device >= 0 && !rails.Contains(device))
            {
                rails.Add(device);
            }
        }
        for (int device = 0; device < descriptor.Devices.Length; device++)
        {
            if (!rails.Contains(device))
            {
                rails.Add(device);
            }
        }
        return [.. rails];
    }

    /// <summary>Whether all of that is registered there.</summary>
    internal bool Covers(ulong address, ulong lengthBytes) => _regions.Covers(address, lengthBytes);

    /// <summary>The remote key for a byte with one of its devices, and up to which address it holds.</summary>
    internal bool TryFindKey(ulong address, int device, out uint key, out ulong end) => _regions.TryFindKey(address, device, out key, out end);

    internal string DeviceName(int device) => _devices[device].Name;

    internal (byte[] Gid, uint Lid) DeviceAddress(int device) => (_devices[device].Gid, _devices[device].Lid);

    /// <summary>A lane over the pair that has the fewest; null when every pair has all it may have, or failed.</summary>
    internal RdmaReadLane? TryMakeLane()
    {
        while (Pairs.TryTake(_stateOf) is (int local, int remote))
        {
            // A plain peer knows one endpoint by the names of the two devices: a second one would end the first.
            if (IsOurs || Plane.TryClaim(ClaimOf(local, remote)))
            {
                return new RdmaReadLane(this, local, remote);
            }
            Pairs.Return(local, remote, "another join of this process reads over it", ofOwner: false, Plane.Nics[local].Epoch, mayHeal: false);
        }
        return null;
    }

    /// <summary>Whether <see cref="TryMakeLane"/> would make one.</summary>
    internal bool HasLaneFree => Pairs.HasFree(_stateOf);

    /// <summary>Whether a lane should end, between two reads, so that another one takes room that has come on a rail; then <see cref="Left"/> follows its end.</summary>
    /// <param name="pair">Its devices, here and there; null for a lane over another plane.</param>
    internal bool TryLeave((int Local, int Remote)? pair) => Pairs.TryLeave(pair, _stateOf);

    /// <summary>Says that a lane that was let leave has ended.</summary>
    internal void Left() => Pairs.Left();

    private string? StateOf(int local, out int epoch)
    {
        RdmaNic nic = Plane.Nics[local];
        epoch = nic.Epoch;
        return nic.Failure ?? (Memory.IsReady(local) ? null : "memory is not registered with it yet");
    }

    private string ClaimOf(int local, int remote) => $"{Plane.Nics[local].Name} {ServerName}@{_devices[remote].Name}";

    /// <summary>Gives a lane's pair back.</summary>
    /// <param name="local">Its device here.</param>
    /// <param name="remote">Its device there.</param>
    /// <param name="failure">Why the pair is not to be tried again; null when it is well.</param>
    /// <param name="ofOwner">The reason holds for every pair: the memory there is gone.</param>
    /// <param name="epoch">Of the device here, when the lane connected: in another one the pair is tried again.</param>
    /// <param name="mayHeal">A connection that did carry bytes was lost: a new one, which asks the owner for its GID anew, may carry more.</param>
    internal void Return(int local, int remote, string? failure, bool ofOwner, int epoch, bool mayHeal)
    {
        if (ofOwner)
        {
            Volatile.Write(ref _hasTakenAway, true);
        }
        if (!IsOurs)
        {
            Plane.Unclaim(ClaimOf(local, remote));
        }
        if (Pairs.Return(local, remote, failure, ofOwner, epoch, mayHeal))
        {
            LogPairFailed(Name, Plane.Nics[local].Name, Plane.Nics[local].Gid.AddressText, _devices[remote].Name, failure!);
        }
    }

    [LoggerMessage(EventId = 2341, Level = LogLevel.Warning, Message = "rdma: {Owner}: device {Local} (GID {Gid}) to its {Remote}: {Reason}; its part goes another way")]
    private partial void LogPairFailed(EndpointName owner, string local, string gid, string remote, string reason);
}
