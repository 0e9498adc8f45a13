using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Interop;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Internal;

/// <summary>Opens and reads files that must be regular ones.</summary>
/// <remarks>
/// Not <see cref="File.OpenHandle"/>: a named pipe in its place would block there until somebody writes, and its advisory lock fails on
/// some network file systems. Symbolic links are followed, as the Hugging Face cache is made of them.
/// </remarks>
internal static unsafe class RegularFile
{
    /// <summary>Opens a file for reading.</summary>
    /// <exception cref="CheckpointEngineException">NotFound, Io (also for what is no regular file).</exception>
    internal static SafeFileHandle Open(string path, out long lengthBytes)
    {
        byte[] utf8 = ToPathBytes(path);
        int fd;
        fixed (byte* p = utf8)
        {
            do
            {
                fd = Libc.open(p, Libc.O_RDONLY | Libc.O_CLOEXEC | Libc.O_NONBLOCK);
            }
            while (fd < 0 && Marshal.GetLastPInvokeError() == Libc.EINTR);
        }
        if (fd < 0)
        {
            ThrowHelper.ThrowNative("open", path, Marshal.GetLastPInvokeError());
        }
        var handle = new SafeFileHandle(fd, ownsHandle: true);
        try
        {
            lengthBytes = GetLength(handle, path);
            return handle;
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>The size that the file has now.</summary>
    /// <exception cref="CheckpointEngineException">Io: it is no regular file.</exception>
    internal static long GetLength(SafeFileHandle handle, string path) => GetStatus(handle, path).LengthBytes;

    /// <summary>What the kernel says of a file.</summary>
    /// <param name="LengthBytes">Its size.</param>
    /// <param name="UserId">Whom it belongs to.</param>
    /// <param name="IsWritableByOthers">Whether group or others may write to it.</param>
    internal readonly record struct Status(long LengthBytes, uint UserId, bool IsWritableByOthers);

    /// <summary>Asks about an open file.</summary>
    /// <exception cref="CheckpointEngineException">Io: it is no regular file.</exception>
    internal static Status GetStatus(SafeFileHandle handle, string path)
    {
        Libc.Statx stat;
        byte empty = 0;
        bool held = false;
        try
        {
            handle.DangerousAddRef(ref held);
            if (Libc.statx((int)handle.DangerousGetHandle(), &empty, Libc.AT_EMPTY_PATH, Libc.STATX_TYPE | Libc.STATX_MODE | Libc.STATX_UID | Libc.STATX_SIZE, &stat) != 0)
            {
                ThrowHelper.ThrowNative("statx", path, Marshal.GetLastPInvokeError());
            }
        }
        finally
        {
            if (held)
            {
                handle.DangerousRelease();
            }
        }
        if ((stat.stx_mode & Libc.S_IFMT) != Libc.S_IFREG)
        {
            ThrowHelper.Throw(CheckpointError.Io, $"open {path}: it is no regular file");
        }
        return new Status((long)stat.stx_size, stat.stx_uid, (stat.stx_mode & 0x12) != 0);      // S_IWGRP | S_IWOTH
    }

    /// <summary>True and the size, when a regular file stands at the path or at the end of its symbolic links.</summary>
    internal static bool TryGetLength(string path, out long lengthBytes)
    {
        Libc.Statx stat;
        int result;
        fixed (byte* p = ToPathBytes(path))
        {
            result = Libc.statx(Libc.AT_FDCWD, p, 0, Libc.STATX_TYPE | Libc.STATX_SIZE, &stat);
        }
        lengthBytes = result == 0 ? (long)stat.stx_size : 0;
        return result == 0 && (stat.stx_mode & Libc.S_IFMT) == Libc.S_IFREG;
    }

    /// <summary>Fills <paramref name="destination"/> from <paramref name="offset"/> on. Allocates nothing when it succeeds.</summary>
    /// <exception cref="CheckpointEngineException">Io: the read failed, or the file ends before.</exception>
    internal static void ReadExactly(SafeFileHandle handle, Span<byte> destination, long offset, string path)
    {
        while (!destination.IsEmpty)
        {
            int read;
            try
            {
                read = RandomAccess.Read(handle, destination, offset);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                ThrowHelper.Throw(CheckpointError.Io, $"read {destination.Length:N0} bytes at {offset:N0} of {path}: {e.Message}", e);
                return;
            }
            if (read == 0)
            {
                ThrowTruncated(path, offset, destination.Length);
            }
            destination = destination[read..];
            offset += read;
        }
    }

    /// <summary>Whether the page cache has a byte; never waits for a disk. Allocates nothing.</summary>
    /// <returns>Null where the file system cannot tell.</returns>
    /// <remarks>Newer kernels (6.14) start to read the byte's page when it is not there. A page that is to start the next read-ahead may pass for missing.</remarks>
    internal static bool? IsCached(SafeFileHandle handle, long offset)
    {
        byte probe;
        var vector = new Libc.IoVec { iov_base = &probe, iov_len = 1 };
        nint read;
        do
        {
            read = Libc.preadv2(handle, &vector, 1, offset, Libc.RWF_NOWAIT);
        }
        while (read < 0 && Marshal.GetLastPInvokeError() == Libc.EINTR);
        return read < 0 && Marshal.GetLastPInvokeError() is Libc.EOPNOTSUPP or Libc.ENOSYS ? null : read == 1;
    }

    [DoesNotReturn]
    internal static void ThrowTruncated(string path, long end, long missingBytes)
        => ThrowHelper.Throw(CheckpointError.Io, $"read {path}: it ends at byte {end:N0}, {missingBytes:N0} before what its size promised; was it truncated?");

    /// <summary>The whole of a small file.</summary>
    /// <exception cref="CheckpointEngineException">NotFound, Io, or InvalidData when it is larger than <paramref name="maxBytes"/>.</exception>
    internal static byte[] ReadAll(string path, int maxBytes)
    {
        using SafeFileHandle handle = Open(path, out long lengthBytes);
        if (lengthBytes > maxBytes)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"{path}: {lengthBytes:N0} bytes are more than the {maxBytes:N0} that such a file may have");
        }
        byte[] bytes = GC.AllocateUninitializedArray<byte>((int)lengthBytes);
        ReadExactly(handle, bytes, 0, path);
        return bytes;
    }

    private static byte[] ToPathBytes(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        if (path.Contains('\0'))
        {
            throw new ArgumentException("a path has no NUL in it", nameof(path));
        }
        byte[] utf8 = new byte[Encoding.UTF8.GetByteCount(path) + 1];
        Encoding.UTF8.GetBytes(path, utf8);
        return utf8;
    }
}
