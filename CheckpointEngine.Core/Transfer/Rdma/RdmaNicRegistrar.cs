using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>What registering with devices has in common, whoever may then reach the memory.</summary>
internal abstract class RdmaNicRegistrar(RdmaNic[] nics) : IRdmaRegistrar
{
    public int Devices => nics.Length;

    public long LargestBytes { get; } = RdmaMemoryRegion.LargestBytes(nics);

    public bool IsUsable(int device) => nics[device].Failure is null;

    public string NameOf(int device) => nics[device].Name;

    public int NodeOf(int device) => nics[device].NumaNode;

    public int NodeOfMemory(ulong address, long lengthBytes) => NumaPlacement.NodeOf((nint)address, lengthBytes);

    public abstract IRdmaRegion Register(int device, MemoryBuffer? buffer, ulong address, long lengthBytes);

    /// <summary>Tries it where the memory is.</summary>
    /// <param name="device">Which.</param>
    /// <param name="memory">Where it is mapped.</param>
    /// <param name="lengthBytes">Its length.</param>
    /// <param name="address">What its first byte is called by those who read or write it.</param>
    /// <param name="access">What they may do.</param>
    /// <param name="errno">Why not, else 0.</param>
    protected RdmaMemoryRegion? TryRegister(int device, nint memory, long lengthBytes, ulong address, int access, out int errno)
        => RdmaMemoryRegion.TryRegister(nics[device], memory, lengthBytes, address, access, out errno);

    /// <summary>What a refusal is told as.</summary>
    protected CheckpointEngineException Refusal(int device, ulong address, long lengthBytes, int errno)
        => RdmaMemoryRegion.Refusal(nics[device], (nint)address, lengthBytes, errno);
}
