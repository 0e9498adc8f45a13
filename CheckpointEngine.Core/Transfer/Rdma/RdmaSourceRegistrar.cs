using CheckpointEngine.Checkpoints;
using CheckpointEngine.Interop;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Registers what peers may read.</summary>
internal sealed unsafe class RdmaSourceRegistrar(RdmaNic[] nics) : RdmaNicRegistrar(nics)
{
    public override IRdmaRegion Register(int device, MemoryBuffer? buffer, ulong address, long lengthBytes)
    {
        const int Access = LibIbverbs.IBV_ACCESS_REMOTE_READ | LibIbverbs.IBV_ACCESS_RELAXED_ORDERING;
        RdmaMemoryRegion? region = TryRegister(device, (nint)address, lengthBytes, address, Access, out int errno);
        if (errno == Libc.EFAULT && buffer is not null && TryMapWritable(buffer, address, lengthBytes, out nint mapped, out nuint mappedBytes))
        {
            nint memory = mapped + (nint)(address & (ulong)(Environment.SystemPageSize - 1));
            region = TryRegister(device, memory, lengthBytes, address, Access, out errno);
            _ = Libc.munmap((void*)mapped, mappedBytes);      // the pages stay pinned without it
        }
        return region ?? throw Refusal(device, address, lengthBytes, errno);
    }

    // Kernels before about 6.2 pin shared memory for a device only where it may be written to: through a mapping of the same file that is there for this
    // call alone. A private mapping would be taken, and silently copied.
    private static bool TryMapWritable(MemoryBuffer buffer, ulong address, long lengthBytes, out nint mapped, out nuint mappedBytes)
    {
        mapped = 0;
        mappedBytes = 0;
        if (buffer.FileDescriptor is not { } file)
        {
            return false;
        }
        int fd;
        fixed (byte* path = System.Text.Encoding.UTF8.GetBytes($"/proc/self/fd/{(int)file.DangerousGetHandle()}\0"))
        {
            fd = Libc.open(path, Libc.O_RDWR | Libc.O_CLOEXEC);
        }
        if (fd < 0)
        {
            return false;
        }
        ulong inPage = address & (ulong)(Environment.SystemPageSize - 1);
        mappedBytes = (nuint)((ulong)lengthBytes + inPage);
        void* start = Libc.mmap(null, mappedBytes, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, fd, (long)(address - inPage - (ulong)buffer.Address));
        new SafeFileHandle(fd, ownsHandle: true).Dispose();
        if ((nint)start == -1)
        {
            return false;
        }
        mapped = (nint)start;
        return true;
    }
}
