using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Transfer.Handshake;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>The ranges of this process that peers may read over RDMA, registered with its devices.</summary>
/// <remarks>
/// <para>Any number of threads; no lock is held while memory is registered. A buffer may be registered from when its pages are there to be filled
/// (<see cref="Begin"/>): its keys are told to nobody before it is offered (<see cref="Add"/>).</para>
/// <para>A device that becomes usable later is caught up with in the background, and told to peers once all ranges are registered with it.</para>
/// </remarks>
internal sealed class RdmaServedMemory : IDisposable
{
    private readonly IRdmaRegistrar _registrar;
    private readonly RdmaRegistrations _registrations;
    private readonly Lock _lock = new();
    private readonly Dictionary<RegisteredRange, RdmaRegistration> _ranges = [];
    private readonly Dictionary<MemoryBuffer, Ahead> _ahead = [];
    private Task _lastAhead = Task.CompletedTask;
    private bool _disposed;

    private sealed class Ahead
    {
        internal Task<RdmaRegistration?> Work = Task.FromResult<RdmaRegistration?>(null);

        internal volatile bool IsAbandoned;
    }

    internal RdmaServedMemory(IRdmaRegistrar registrar, ILogger logger)
    {
        _registrar = registrar;
        _registrations = new RdmaRegistrations(registrar, logger);
    }

    /// <summary>Starts registering a buffer that is being filled; to be followed by <see cref="Add"/> of all of it, or <see cref="Abandon"/>.</summary>
    /// <remarks>One buffer after the other, each with all devices at once: who fills them goes through them in that order, too.</remarks>
    internal void Begin(MemoryBuffer buffer)
    {
        if (buffer.LengthBytes == 0)
        {
            return;
        }
        ulong address = (ulong)buffer.Address;
        lock (_lock)
        {
            if (_disposed)
            {
                return;
            }
            var ahead = new Ahead();
            _ahead.Add(buffer, ahead);
            ahead.Work = _lastAhead.ContinueWith(
                _ => ahead.IsAbandoned ? null : RdmaRegistration.Make(_registrar, buffer, address, (ulong)buffer.LengthBytes),
                CancellationToken.None, TaskContinuationOptions.LongRunning, TaskScheduler.Default);
            _lastAhead = ahead.Work;
        }
    }

    /// <summary>Ends what <see cref="Begin"/> began; nothing of it is registered when this returns. Does nothing for a buffer that it was not called for.</summary>
    internal void Abandon(MemoryBuffer buffer)
    {
        Ahead? ahead;
        lock (_lock)
        {
            if (!_ahead.Remove(buffer, out ahead))
            {
                return;
            }
        }
        End(ahead);
    }

    /// <summary>Offers a range to peers, registered with every device that is usable.</summary>
    /// <exception cref="CheckpointEngineException">A device refuses; nothing stays registered.</exception>
    internal void Add(RegisteredRange range)
    {
        RdmaRegistration registration = TakeAhead(range) ?? RdmaRegistration.Make(_registrar, range.Buffer, range.Address, range.LengthBytes);
        _registrations.Add(registration);
        lock (_lock)
        {
            _ranges.Add(range, registration);
        }
    }

    /// <summary>Takes a range out of every peer's reach.</summary>
    internal void Remove(RegisteredRange range)
    {
        RdmaRegistration? registration;
        lock (_lock)
        {
            _ranges.Remove(range, out registration);
        }
        if (registration is not null)
        {
            _registrations.Remove(registration);
        }
    }

    /// <summary>What is offered now: the devices that all ranges are registered with, the regions with a key for each of them, and which are near to which.</summary>
    internal RdmaOffer Describe()
    {
        lock (_lock)
        {
            RegisteredRange[] ranges = [.. _ranges.Keys];
            Array.Sort(ranges, static (a, b) => a.Address.CompareTo(b.Address));
            var ready = new List<int>(_registrar.Devices);
            for (int device = 0; device < _registrar.Devices; device++)
            {
                if (_registrar.IsUsable(device) && Array.TrueForAll(ranges, range => _ranges[range].IsWith(device)))
                {
                    ready.Add(device);
                }
            }
            var pieces = new List<RdmaRegistration.Piece>(ranges.Length);
            Array.ForEach(ready.Count == 0 ? [] : ranges, range => pieces.AddRange(_ranges[range].Pieces));
            int[] rails = [.. ready];
            string[] names = new string[rails.Length];
            int[] nodes = new int[rails.Length];
            for (int i = 0; i < rails.Length; i++)
            {
                names[i] = _registrar.NameOf(rails[i]);
                nodes[i] = _registrar.NodeOf(rails[i]);
            }
            int[] memoryNodes = new int[pieces.Count];
            for (int i = 0; i < memoryNodes.Length; i++)
            {
                memoryNodes[i] = pieces[i].Node;
            }
            DeviceAffinity[] matrix = RdmaAffinity.Matrix(memoryNodes, names, nodes, NumaDistances.Host, out int[] devices);
            for (int i = 0; i < devices.Length; i++)
            {
                devices[i] = rails[devices[i]];
            }
            var buffers = new SegmentBuffer[pieces.Count];
            for (int i = 0; i < buffers.Length; i++)
            {
                RdmaRegistration.Piece piece = pieces[i];
                uint[] localKeys = new uint[devices.Length];
                uint[] remoteKeys = new uint[devices.Length];
                for (int device = 0; device < devices.Length; device++)
                {
                    IRdmaRegion region = piece.Regions[devices[device]]!;
                    localKeys[device] = region.LocalKey;
                    remoteKeys[device] = region.RemoteKey;
                }
                buffers[i] = new SegmentBuffer(piece.Address, (ulong)piece.LengthBytes, RdmaAffinity.LocationOf(piece.Node), localKeys, remoteKeys);
            }
            return new RdmaOffer(devices, rails, buffers, matrix);
        }
    }

    /// <summary>Says that a device may have become usable.</summary>
    internal void DevicesChanged() => _registrations.DevicesChanged();

    public void Dispose()
    {
        Ahead[] ahead;
        lock (_lock)
        {
            _disposed = true;
            ahead = [.. _ahead.Values];
            _ahead.Clear();
        }
        Array.ForEach(ahead, End);
        _registrations.Dispose();
    }

    private RdmaRegistration? TakeAhead(RegisteredRange range)
    {
        Ahead? ahead;
        lock (_lock)
        {
            if (!_ahead.Remove(range.Buffer, out ahead))
            {
                return null;
            }
        }
        if (range.Address == (ulong)range.Buffer.Address && range.LengthBytes == (ulong)range.Buffer.LengthBytes)
        {
            return ahead.Work.GetAwaiter().GetResult();
        }
        End(ahead);
        return null;
    }

    private static void End(Ahead ahead)
    {
        ahead.IsAbandoned = true;
        try
        {
            ahead.Work.GetAwaiter().GetResult()?.Dispose();
        }
        catch (CheckpointEngineException)
        {
            // It was refused, and nobody will ask for it any more.
        }
    }
}

/// <summary>What is offered to peers over RDMA at a moment.</summary>
/// <param name="devices">The devices by their places, in the order that they are told in, which the keys have too.</param>
/// <param name="rails">The same devices in the order of the rails.</param>
/// <param name="buffers">The regions, by rising address.</param>
/// <param name="matrix">Which devices are near to which of them.</param>
internal sealed class RdmaOffer(int[] devices, int[] rails, SegmentBuffer[] buffers, DeviceAffinity[] matrix)
{
    internal int[] Devices { get; } = devices;

    internal int[] Rails { get; } = rails;

    internal SegmentBuffer[] Buffers { get; } = buffers;

    internal DeviceAffinity[] Matrix { get; } = matrix;
}
