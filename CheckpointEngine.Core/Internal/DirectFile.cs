using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Interop;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Internal;

/// <summary>A second descriptor of an open file, which reads past the page cache.</summary>
/// <remarks>Any number of threads read. Allocates nothing per read.</remarks>
internal sealed unsafe class DirectFile : IDisposable
{
    // What every block device is content with; asked for where the kernel does not tell.
    private const int UsualAlignment = 4096;

    /// <summary>The largest alignment that is accepted.</summary>
    internal const int MaxAlignment = 64 << 10;

    private readonly SafeFileHandle _handle;
    private readonly string _path;
    private volatile bool _refused;

    private DirectFile(SafeFileHandle handle, int alignment, string path)
    {
        _handle = handle;
        _path = path;
        Alignment = alignment;
    }

    /// <summary>Addresses, offsets and lengths are multiples of this power of two.</summary>
    internal int Alignment { get; }

    /// <summary>Opens the very file that is open, whatever its path names by now.</summary>
    /// <returns>Null where the file system has no such reads, or /proc is missing.</returns>
    internal static DirectFile? TryOpen(SafeFileHandle file, string path)
    {
        bool held = false;
        try
        {
            file.DangerousAddRef(ref held);
            int fd = (int)file.DangerousGetHandle();
            int alignment = GetAlignment(fd);
            if (alignment == 0)
            {
                return null;
            }
            Span<byte> name = stackalloc byte[32];
            Encoding.UTF8.GetBytes($"/proc/self/fd/{fd}\0", name);
            int direct;
            fixed (byte* p = name)
            {
                direct = Libc.open(p, Libc.O_RDONLY | Libc.O_CLOEXEC | Libc.O_NONBLOCK | Libc.O_DIRECT);
            }
            return direct < 0 ? null : new DirectFile(new SafeFileHandle(direct, ownsHandle: true), alignment, path);
        }
        finally
        {
            if (held)
            {
                file.DangerousRelease();
            }
        }
    }

    /// <summary>Reads at least <paramref name="neededBytes"/>; more as far as the alignment asks and the file goes.</summary>
    /// <param name="destination">Aligned memory of <paramref name="neededBytes"/>, rounded up to the alignment.</param>
    /// <param name="offset">Aligned.</param>
    /// <param name="neededBytes">Bytes that the file should have from there on.</param>
    /// <returns>False when the file system refuses such a read after all; nothing is to be had this way then.</returns>
    /// <exception cref="CheckpointEngineException">Io: the read failed, or the file ends before.</exception>
    internal bool TryRead(byte* destination, long offset, int neededBytes)
    {
        int done = 0;
        if (_refused)
        {
            return false;
        }
        while (done < neededBytes)
        {
            int left = (neededBytes - done + Alignment - 1) & -Alignment;
            nint read = Libc.pread(_handle, destination + done, (nuint)left, offset + done);
            if (read < 0)
            {
                int errno = Marshal.GetLastPInvokeError();
                if (errno == Libc.EINTR)
                {
                    continue;
                }
                if (errno is Libc.EINVAL or Libc.EOPNOTSUPP)
                {
                    _refused = true;
                    return false;
                }
                ThrowHelper.ThrowNative($"read {neededBytes:N0} bytes at {offset:N0} of", _path, errno);
            }
            done += (int)read;
            // Only at the file's end is a read no multiple; the next would be refused for its offset.
            if (done < neededBytes && (read == 0 || read % Alignment != 0))
            {
                RegularFile.ThrowTruncated(_path, offset + done, neededBytes - done);
            }
        }
        return true;
    }

    public void Dispose() => _handle.Dispose();

    // 0 where the kernel says that there are no such reads.
    private static int GetAlignment(int fd)
    {
        Libc.Statx stat;
        byte empty = 0;
        if (Libc.statx(fd, &empty, Libc.AT_EMPTY_PATH, Libc.STATX_DIOALIGN, &stat) != 0 || (stat.stx_mask & Libc.STATX_DIOALIGN) == 0)
        {
            return UsualAlignment;
        }
        uint alignment = Math.Max(stat.stx_dio_mem_align, stat.stx_dio_offset_align);
        return stat.stx_dio_offset_align != 0 && alignment <= MaxAlignment && uint.IsPow2(alignment) ? (int)alignment : 0;
    }
}
