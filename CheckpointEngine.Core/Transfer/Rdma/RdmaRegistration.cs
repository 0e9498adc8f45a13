using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>A range of memory, registered with devices whole or in the largest pieces that all of them take.</summary>
/// <remarks>
/// Devices work at the same time, each on a thread of its own: pinning hundreds of gigabytes takes seconds, which pool threads are not there for.
/// <see cref="Extend"/> on one thread at a time and before <see cref="Dispose"/>; what is read meanwhile is of before or after it.
/// </remarks>
internal sealed class RdmaRegistration : IDisposable
{
    private readonly IRdmaRegistrar _registrar;
    private readonly MemoryBuffer? _buffer;

    private RdmaRegistration(IRdmaRegistrar registrar, MemoryBuffer? buffer, ulong address, ulong lengthBytes)
    {
        _registrar = registrar;
        _buffer = buffer;
        var pieces = new List<Piece>();
        ulong most = (ulong)registrar.LargestBytes;
        for (ulong at = 0; at < lengthBytes; at += most)
        {
            pieces.Add(new Piece(address + at, (long)Math.Min(most, lengthBytes - at), registrar.Devices));
        }
        Pieces = [.. pieces];
        RefusedAt = new int[registrar.Devices];
    }

    /// <summary>One region a device.</summary>
    internal sealed class Piece(ulong address, long lengthBytes, int devices)
    {
        internal ulong Address { get; } = address;

        internal long LengthBytes { get; } = lengthBytes;

        /// <summary>The NUMA node it lies on, or <see cref="RdmaAffinity.AnyNode"/>.</summary>
        internal int Node { get; set; } = RdmaAffinity.AnyNode;

        /// <summary>By device; null where it is not registered.</summary>
        internal IRdmaRegion?[] Regions { get; } = new IRdmaRegion?[devices];
    }

    /// <summary>By rising address.</summary>
    internal Piece[] Pieces { get; }

    /// <summary>Registers a range with every device that is usable.</summary>
    /// <param name="registrar">The devices.</param>
    /// <param name="buffer">What the memory belongs to; null when only its address is known.</param>
    /// <param name="address">First byte.</param>
    /// <param name="lengthBytes">Its length.</param>
    /// <exception cref="CheckpointEngineException">A device refuses; nothing stays registered.</exception>
    internal static RdmaRegistration Make(IRdmaRegistrar registrar, MemoryBuffer? buffer, ulong address, ulong lengthBytes)
    {
        var made = new RdmaRegistration(registrar, buffer, address, lengthBytes);
        try
        {
            int[] usable = Array.FindAll(Indices(registrar.Devices), registrar.IsUsable);
            Task.WhenAll(Array.ConvertAll(usable, device => Task.Factory.StartNew(
                () => made.Extend(device), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default))).GetAwaiter().GetResult();
            Array.ForEach(made.Pieces, piece => piece.Node = registrar.NodeOfMemory(piece.Address, piece.LengthBytes));      // the pages are there now
            return made;
        }
        catch
        {
            made.Dispose();
            throw;
        }
    }

    /// <summary>By device: which change of the devices it was that it was refused at; the owner's to keep.</summary>
    internal int[] RefusedAt { get; }

    /// <summary>Whether all of it is registered with a device.</summary>
    internal bool IsWith(int device) => Array.TrueForAll(Pieces, piece => Volatile.Read(ref piece.Regions[device]) is not null);

    /// <summary>Registers all of it with one more device.</summary>
    /// <exception cref="CheckpointEngineException">It refuses; nothing stays registered with it.</exception>
    internal void Extend(int device)
    {
        try
        {
            foreach (Piece piece in Pieces)
            {
                Volatile.Write(ref piece.Regions[device], _registrar.Register(device, _buffer, piece.Address, piece.LengthBytes));
            }
        }
        catch
        {
            End(device);
            throw;
        }
    }

    public void Dispose() => Array.ForEach(Indices(_registrar.Devices), End);

    private void End(int device)
    {
        foreach (Piece piece in Pieces)
        {
            Interlocked.Exchange(ref piece.Regions[device], null)?.Dispose();
        }
    }

    private static int[] Indices(int count)
    {
        int[] all = new int[count];
        for (int i = 0; i < count; i++)
        {
            all[i] = i;
        }
        return all;
    }
}
