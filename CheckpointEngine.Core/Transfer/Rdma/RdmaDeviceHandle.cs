using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Owns one open device, an <c>ibv_context</c>.</summary>
/// <remarks>What is made of it (protection domains, queues) takes a reference, so any order of disposal is right.</remarks>
internal sealed unsafe class RdmaDeviceHandle : SafeHandle
{
    private const int EPROTONOSUPPORT = 93;

    private RdmaDeviceHandle(LibIbverbs.IbvContext* context)
        : base(0, ownsHandle: true) => SetHandle((nint)context);

    public override bool IsInvalid => handle == 0;

    /// <summary>The context; to be used while a reference is held.</summary>
    internal LibIbverbs.IbvContext* Pointer => (LibIbverbs.IbvContext*)handle;

    /// <summary>Opens a device of a list that is not freed yet.</summary>
    /// <param name="device">The device.</param>
    /// <param name="errno">Why it could not be opened; 0 when it could, or when nothing is said.</param>
    /// <returns>Null when it could not be opened.</returns>
    internal static RdmaDeviceHandle? Open(LibIbverbs.IbvDevice* device, out int errno)
    {
        LibIbverbs.IbvContext* context = LibIbverbs.ibv_open_device(device);
        errno = context == null ? Marshal.GetLastPInvokeError() : 0;
        return context == null ? null : new RdmaDeviceHandle(context);
    }

    /// <summary>Opens the same device once more: what happens to it is told to each.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: it cannot be opened.</exception>
    internal RdmaDeviceHandle OpenAgain(string name) => Open(Pointer->device, out int errno)
        ?? throw new CheckpointEngineException(CheckpointError.NotSupported, $"use RDMA device {name}: it cannot be opened again for another port: {VerbsStatus.Errno(errno)}", errno);

    /// <summary>Whether library, kernel, driver and device take memory by a dma-buf, as that of graphics processors comes.</summary>
    /// <remarks>Asks with a descriptor that is none, and makes a protection domain for it.</remarks>
    internal bool SupportsDmaBuf()
    {
        if (!LibIbverbs.HasDmaBuf)
        {
            return false;
        }
        LibIbverbs.IbvPd* domain = LibIbverbs.ibv_alloc_pd(Pointer);
        if (domain == null)
        {
            return false;
        }
        LibIbverbs.IbvMr* region = LibIbverbs.ibv_reg_dmabuf_mr(domain, 0, 0, 0, -1, 0);
        int errno = Marshal.GetLastPInvokeError();
        if (region != null)
        {
            _ = LibIbverbs.ibv_dereg_mr(region);
        }
        _ = LibIbverbs.ibv_dealloc_pd(domain);
        return region != null || errno is not (Libc.EOPNOTSUPP or EPROTONOSUPPORT or Libc.ENOSYS);
    }

    protected override bool ReleaseHandle() => LibIbverbs.ibv_close_device(Pointer) == 0;
}
