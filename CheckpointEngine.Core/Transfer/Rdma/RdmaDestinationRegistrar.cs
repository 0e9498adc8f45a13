using CheckpointEngine.Checkpoints;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Registers what this process reads into; no peer reaches it.</summary>
internal sealed class RdmaDestinationRegistrar(RdmaNic[] nics) : RdmaNicRegistrar(nics)
{
    public override IRdmaRegion Register(int device, MemoryBuffer? buffer, ulong address, long lengthBytes)
    {
        const int Access = LibIbverbs.IBV_ACCESS_LOCAL_WRITE | LibIbverbs.IBV_ACCESS_RELAXED_ORDERING;
        return TryRegister(device, (nint)address, lengthBytes, address, Access, out int errno)
            ?? throw Refusal(device, address, lengthBytes, errno);
    }
}
