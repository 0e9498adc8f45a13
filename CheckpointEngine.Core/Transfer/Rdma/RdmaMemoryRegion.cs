using System.Runtime.InteropServices;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Memory that is registered with one device: pinned, and reachable by its keys until it is disposed.</summary>
/// <remarks>Any thread; disposed once the last queue pair that writes to it is gone. Source: ibv_reg_mr(3).</remarks>
internal sealed unsafe class RdmaMemoryRegion : IRdmaRegion
{
    private static long s_live;
    private readonly RdmaNic _nic;
    private LibIbverbs.IbvMr* _region;

    private RdmaMemoryRegion(RdmaNic nic, LibIbverbs.IbvMr* region)
    {
        _nic = nic;
        _region = region;
        LocalKey = region->lkey;
        RemoteKey = region->rkey;
        nic.AddReference();
        Interlocked.Increment(ref s_live);
    }

    /// <summary>Regions of this process at this moment.</summary>
    internal static long Live => Interlocked.Read(ref s_live);

    public uint LocalKey { get; }

    public uint RemoteKey { get; }

    /// <summary>Registers memory of this process.</summary>
    /// <param name="nic">The device.</param>
    /// <param name="memory">First byte, of any alignment; writable unless the kernel takes read-only memory (about 6.2).</param>
    /// <param name="lengthBytes">At most <see cref="RdmaDeviceLimits.MaxRegionBytes"/>.</param>
    /// <param name="remoteAddress">What peers call the first byte.</param>
    /// <param name="access">IBV_ACCESS_*.</param>
    /// <param name="errno">Why not; 0 when it was.</param>
    /// <returns>Null when the kernel refuses.</returns>
    internal static RdmaMemoryRegion? TryRegister(RdmaNic nic, nint memory, long lengthBytes, ulong remoteAddress, int access, out int errno)
    {
        LibIbverbs.IbvMr* region = remoteAddress == (ulong)memory
            ? LibIbverbs.ibv_reg_mr(nic.Domain, (void*)memory, (nuint)lengthBytes, access)
            : LibIbverbs.ibv_reg_mr_iova2(nic.Domain, (void*)memory, (nuint)lengthBytes, remoteAddress, (uint)access);
        errno = region == null ? Math.Max(1, Marshal.GetLastPInvokeError()) : 0;
        return region == null ? null : new RdmaMemoryRegion(nic, region);
    }

    /// <summary>The most bytes that every one of some devices takes as one region, in whole huge pages.</summary>
    internal static long LargestBytes(RdmaNic[] nics)
        => Math.Max(1L << 21, nics.Min(nic => (long)Math.Min(nic.Limits.MaxRegionBytes, 1UL << 40)) & ~((1L << 21) - 1));

    /// <summary>The error for a refusal.</summary>
    internal static CheckpointEngineException Refusal(RdmaNic nic, nint memory, long lengthBytes, int errno)
    {
        string advice = errno switch
        {
            Libc.ENOMEM or Libc.EPERM => "RDMA locks what it registers: " + HostMemory.LockAdvice(lengthBytes),
            Libc.EFAULT => "this kernel registers only memory that may be written to; hold the checkpoint in memory of its own (--hold anon)",
            _ => "look at 'checkpoint-engine doctor'",
        };
        return new CheckpointEngineException(errno is Libc.ENOMEM or Libc.EPERM ? CheckpointError.OutOfMemory : CheckpointError.NotSupported,
            $"register {lengthBytes:N0} bytes at 0x{memory:x} with RDMA device {nic.Name}: {VerbsStatus.Errno(errno)}; {advice}", errno);
    }

    public void Dispose()
    {
        LibIbverbs.IbvMr* region = _region;
        if (region != null)
        {
            _region = null;
            _ = LibIbverbs.ibv_dereg_mr(region);
            Interlocked.Decrement(ref s_live);
            _nic.Release();
        }
    }
}
