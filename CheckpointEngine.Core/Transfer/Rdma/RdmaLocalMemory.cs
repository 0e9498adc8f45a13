using CheckpointEngine.Internal;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>The memory that a join receives into, registered with every device ahead of the reads.</summary>
/// <remarks><see cref="Add"/> from any thread; look-ups take no lock. Disposed when no lane is left, and before the memory is.</remarks>
internal sealed class RdmaLocalMemory : IDisposable
{
    private readonly Lock _lock = new();
    private readonly RdmaPlane _plane;
    private readonly RdmaDestinationRegistrar _registrar;
    private readonly RdmaRegistrations _registrations;
    private RdmaRegistration.Piece[] _pieces = [];            // by rising address; replaced, never changed
    private bool _disposed;

    internal RdmaLocalMemory(RdmaPlane plane, ILogger logger)
    {
        _plane = plane;
        _registrar = new RdmaDestinationRegistrar(plane.Nics);
        _registrations = new RdmaRegistrations(_registrar, logger);
        Array.ForEach(plane.Nics, static nic => nic.AddReference());      // the devices stay open for as long as a join may come back to them
        plane.Changed += DevicesChanged;
    }

    /// <summary>Registers memory with all devices at once, in pieces no larger than each of them takes.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="lengthBytes">Its length.</param>
    /// <returns>To be disposed before the memory is freed.</returns>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>: more than may be locked. <see cref="CheckpointError.NotSupported"/>.</exception>
    internal IDisposable Add(nint address, long lengthBytes)
    {
        RdmaRegistration made = RdmaRegistration.Make(_registrar, null, (ulong)address, (ulong)lengthBytes);
        _registrations.Add(made);
        lock (_lock)
        {
            Publish([.. _pieces, .. made.Pieces]);
        }
        return new Registration(this, made);
    }

    /// <summary>The local key for a byte, and up to which address it holds.</summary>
    /// <returns>False when nobody has added it.</returns>
    internal bool TryFind(nint address, int nic, out uint key, out nint end)
    {
        RdmaRegistration.Piece[] pieces = Volatile.Read(ref _pieces);
        int low = 0;
        int high = pieces.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if ((nint)pieces[middle].Address <= address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }
        if (low != 0 && pieces[low - 1] is var piece && address - (nint)piece.Address < piece.LengthBytes && piece.Regions[nic] is IRdmaRegion region)
        {
            key = region.LocalKey;
            end = (nint)piece.Address + (nint)piece.LengthBytes;
            return true;
        }
        key = 0;
        end = 0;
        return false;
    }

    /// <summary>Whether a device is usable and all of the memory registered with it.</summary>
    internal bool IsReady(int nic) => _registrations.IsReady(nic);

    /// <summary>How far every device is from the memory: the share of the bytes that it is not near to.</summary>
    internal int[] Costs()
    {
        RdmaRegistration.Piece[] pieces = Volatile.Read(ref _pieces);
        int[] nodes = Array.ConvertAll(_plane.Nics, nic => nic.NumaNode);
        double[] far = new double[nodes.Length];
        double all = 0;
        foreach (RdmaRegistration.Piece piece in pieces)
        {
            bool[] near = RdmaAffinity.Near(piece.Node, nodes, NumaDistances.Host);
            for (int device = 0; device < near.Length; device++)
            {
                far[device] += near[device] ? 0 : piece.LengthBytes;
            }
            all += piece.LengthBytes;
        }
        int[] costs = new int[nodes.Length];
        for (int device = 0; device < costs.Length; device++)
        {
            costs[device] = all == 0 ? 0 : (int)(RdmaAffinity.MaxCost * (far[device] / all));
        }
        return costs;
    }

    // Under the lock.
    private void Publish(RdmaRegistration.Piece[] pieces)
    {
        Array.Sort(pieces, static (a, b) => a.Address.CompareTo(b.Address));
        Volatile.Write(ref _pieces, pieces);
    }

    // No lane may write to it any more.
    private void Remove(RdmaRegistration gone)
    {
        lock (_lock)
        {
            Publish(Array.FindAll(_pieces, piece => Array.IndexOf(gone.Pieces, piece) < 0));
        }
        _registrations.Remove(gone);
    }

    private void DevicesChanged(RdmaNic nic) => _registrations.DevicesChanged();

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, true))
        {
            return;
        }
        _plane.Changed -= DevicesChanged;
        Volatile.Write(ref _pieces, []);
        _registrations.Dispose();
        Array.ForEach(_plane.Nics, static nic => nic.Release());
    }

    private sealed class Registration(RdmaLocalMemory memory, RdmaRegistration registration) : IDisposable
    {
        public void Dispose() => memory.Remove(registration);
    }
}
