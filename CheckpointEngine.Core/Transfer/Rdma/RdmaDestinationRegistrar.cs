using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Registers what this process reads into; no peer reaches it.</summary>
internal sealed class RdmaDestinationRegistrar(RdmaNic[] nics) : IRdmaRegistrar
{
    public int Devices => nics.Length;

    public long LargestBytes { get; } = RdmaMemoryRegion.LargestBytes(nics);

    public bool IsUsable(int device) => nics[device].Failure is null;

    public string NameOf(int device) => nics[device].Name;

    public int NodeOf(int device) => nics[device].NumaNode;

    public int NodeOfMemory(ulong address, long lengthBytes) => NumaPlacement.NodeOf((nint)address, lengthBytes);

    public IRdmaRegion Register(int device, MemoryBuffer? buffer, ulong address, long lengthBytes)
    {
        const int Access = LibIbverbs.IBV_ACCESS_LOCAL_WRITE | LibIbverbs.IBV_ACCESS_RELAXED_ORDERING;
        return RdmaMemoryRegion.TryRegister(nics[device], (nint)address, lengthBytes, address, Access, out int errno)
            ?? throw RdmaMemoryRegion.Refusal(nics[device], (nint)address, lengthBytes, errno);
    }
}
