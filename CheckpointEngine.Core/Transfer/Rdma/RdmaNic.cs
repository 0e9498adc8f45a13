using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>One port of a device of this host, and the protection domain that all of ours on it belongs to.</summary>
/// <remarks>Any number of threads. Ports of one device have it open each on its own. Memory and queue pairs made of it hold a reference: in whatever order they are disposed, the device is closed last.</remarks>
internal sealed unsafe class RdmaNic : IDisposable
{
    private readonly RdmaDevice _device;
    private readonly RdmaDeviceHandle _handle;
    private readonly LibIbverbs.IbvPd* _domain;
    private volatile RdmaPort _port;
    private volatile string? _failure;
    private volatile int _epoch;
    private int _references = 1;

    private RdmaNic(RdmaMeantPort meant, RdmaDeviceHandle handle, LibIbverbs.IbvPd* domain)
    {
        Name = meant.Name;
        _device = meant.Device;
        _handle = handle;
        _domain = domain;
        _port = meant.Port;
        _failure = meant.Port.Unusable;
    }

    /// <summary>What peers call it; with the server's name it makes the NIC path.</summary>
    internal string Name { get; }

    /// <summary>The port as it was last read; another object when it has changed.</summary>
    internal RdmaPort Port => _port;

    /// <summary>The GID that connections are made under; an empty one while there is none.</summary>
    internal GidTableEntry Gid => Gids is [GidTableEntry best, ..] ? best : GidTableEntry.None;

    /// <summary>The GIDs that may be tried, best first: others than the first only where nobody chose it. None while the port has none.</summary>
    internal GidTableEntry[] Gids => Port.GidChoice.Candidates;

    /// <summary>Rises when the port has come up, or its GIDs are others: what has failed before may go well now.</summary>
    internal int Epoch => _epoch;

    /// <summary>Whether a GID still stands in its place.</summary>
    internal bool Has(GidTableEntry gid) => Array.Exists(Port.Gids, gid.Equals);

    internal RdmaDeviceLimits Limits => _device.Limits!;

    internal int NumaNode => _device.NumaNode;

    internal LibIbverbs.IbvContext* Context => _handle.Pointer;

    internal LibIbverbs.IbvPd* Domain => _domain;

    /// <summary>Why it can no longer be used (port down, device removed); null while it can.</summary>
    internal string? Failure
    {
        get => _failure;
        set => _failure = value;
    }

    /// <summary>Whether it can never be used again in this process.</summary>
    internal bool IsFatal { get; set; }

    /// <summary>Takes over an open device.</summary>
    /// <param name="meant">The port.</param>
    /// <param name="handle">Its device, open.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: the device gives no protection domain; it stays open.</exception>
    internal static RdmaNic Open(RdmaMeantPort meant, RdmaDeviceHandle handle)
    {
        LibIbverbs.IbvPd* domain = LibIbverbs.ibv_alloc_pd(handle.Pointer);
        if (domain == null)
        {
            int errno = Marshal.GetLastPInvokeError();
            throw new CheckpointEngineException(CheckpointError.NotSupported,
                $"use RDMA device {meant.Name}: it gives no protection domain: {VerbsStatus.Errno(errno)}", errno);
        }
        return new RdmaNic(meant, handle, domain);
    }

    /// <summary>Reads the port and its GIDs anew; one thread.</summary>
    /// <returns>Whether something is new that matters to connections.</returns>
    internal bool Refresh()
    {
        RdmaPort before = _port;
        RdmaPort now = RdmaDevices.ExaminePort(Context, _device.Name, before.Number);
        string? failure = IsFatal ? _failure : now.Unusable;
        bool changed = (failure is null) != (_failure is null) || before.Lid != now.Lid || !before.Gids.AsSpan().SequenceEqual(now.Gids);
        _port = now;
        if (changed)
        {
            Interlocked.Increment(ref _epoch);
        }
        _failure = failure;
        return changed;
    }

    /// <exception cref="ObjectDisposedException">The last one is gone, and the device closed.</exception>
    internal void AddReference()
    {
        int seen;
        do
        {
            seen = Volatile.Read(ref _references);
            ObjectDisposedException.ThrowIf(seen == 0, this);
        }
        while (Interlocked.CompareExchange(ref _references, seen + 1, seen) != seen);
    }

    internal void Release()
    {
        if (Interlocked.Decrement(ref _references) == 0)
        {
            _ = LibIbverbs.ibv_dealloc_pd(_domain);
            _handle.Dispose();
        }
    }

    public void Dispose() => Release();
}
