using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Join;

/// <summary>What a join needs to read over RDMA: the devices of this process, and its memory registered with them.</summary>
/// <remarks>Devices are looked for when the first owner offers RDMA. Disposed when no lane is left, before the destination is handed on.</remarks>
internal sealed class RdmaJoin(RdmaPlaneOpener open, ILogger logger) : IDisposable
{
    private readonly Lock _lock = new();
    private RdmaLocalMemory? _memory;

    /// <summary>The devices; null with the reason when there are none.</summary>
    internal RdmaPlane? TryOpen(out string? whyNone) => open(out whyNone);

    /// <summary>The memory that is received into; empty before <see cref="Register"/>.</summary>
    internal RdmaLocalMemory MemoryOf(RdmaPlane plane)
    {
        lock (_lock)
        {
            return _memory ??= new RdmaLocalMemory(plane, logger);
        }
    }

    /// <summary>Registers where the bytes are to go; nothing when no owner is read over RDMA.</summary>
    /// <exception cref="CheckpointEngineException">The memory cannot be locked or registered.</exception>
    internal void Register(IJoinDestination destination)
    {
        if (_memory is not null)
        {
            foreach ((nint address, long lengthBytes) in destination.Regions)
            {
                _ = _memory.Add(address, lengthBytes);
            }
        }
    }

    public void Dispose() => _memory?.Dispose();
}

/// <summary>Gives the RDMA devices of a process, or the reason why there are none.</summary>
internal delegate RdmaPlane? RdmaPlaneOpener(out string? whyNone);
