using System.Collections.Concurrent;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer.Rdma;

namespace CheckpointEngine.Tests;

/// <summary>Devices that are not here: what is registered with them is counted.</summary>
internal sealed class FakeRegistrar(int devices) : IRdmaRegistrar
{
    private readonly ConcurrentDictionary<Region, bool> _live = [];

    public int Devices => devices;

    public long LargestBytes { get; init; } = 1 << 20;

    public bool[] Usable { get; } = Enumerable.Repeat(true, devices).ToArray();

    public int[] Nodes { get; init; } = new int[devices];

    /// <summary>Called on the thread of every registration, before it is made.</summary>
    public Action<int, ulong> OnRegister { get; set; } = static (_, _) => { };

    public Func<ulong, int> NodeOfAddress { get; init; } = static _ => 0;

    public int Live => _live.Count;

    public int Calls;

    public bool IsUsable(int device) => Volatile.Read(ref Usable[device]);

    public string NameOf(int device) => $"d{device}";

    public int NodeOf(int device) => Nodes[device];

    public int NodeOfMemory(ulong address, long lengthBytes) => NodeOfAddress(address);

    public IRdmaRegion Register(int device, MemoryBuffer? buffer, ulong address, long lengthBytes)
    {
        Interlocked.Increment(ref Calls);
        OnRegister(device, address);
        var region = new Region(this, (uint)(device + 1), (uint)(100 + device));
        _live[region] = true;
        return region;
    }

    private sealed class Region(FakeRegistrar owner, uint local, uint remote) : IRdmaRegion
    {
        public uint LocalKey => local;

        public uint RemoteKey => remote;

        public void Dispose() => Assert.True(owner._live.TryRemove(this, out _));      // once
    }
}
