using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Checkpoints;

/// <summary>One contiguous region of memory outside the managed heap, with one owner.</summary>
/// <remarks>
/// <para>Any number of threads may read the properties and take spans; Dispose belongs to the owner, who calls it when nobody uses a span
/// or <see cref="Address"/> any more. Transfers in flight hold a reference of their own, so the pages outlive them.</para>
/// <para>A file that is made shorter while it is mapped takes its pages along: a touch of one beyond the new end is SIGBUS, which ends a
/// process compiled ahead of time at once and cannot be caught. Ask <see cref="CheckBackingSize"/> before a long walk, do not overwrite a
/// checkpoint in place while it is held (write a new file and rename it: the mapping keeps the old one), and copy instead of mapping
/// (<see cref="HoldMode.Anonymous"/>) where that cannot be promised. A memfd made here is sealed against it.</para>
/// </remarks>
public sealed unsafe class MemoryBuffer : IDisposable
{
    private readonly MemoryRegionHandle _region;
    private SafeFileHandle? _file;
    private readonly bool _ownsFile;
    private readonly string _subject;
    private readonly nint _address;
    private int _locked;
    private volatile bool _frozen;

    private MemoryBuffer(MemoryRegionHandle region, long lengthBytes, MemoryBufferKind kind, SafeFileHandle? file, bool ownsFile, string subject)
    {
        _region = region;
        _address = region.DangerousGetHandle();
        _file = file;
        _ownsFile = ownsFile;
        _subject = subject;
        LengthBytes = lengthBytes;
        Kind = kind;
    }

    /// <summary>Address of the first byte.</summary>
    /// <exception cref="ObjectDisposedException">The buffer was disposed.</exception>
    public nint Address
    {
        get
        {
            ObjectDisposedException.ThrowIf(_region.IsClosed, this);
            return _address;
        }
    }

    /// <summary>Length in bytes, as asked for; the pages behind may reach further.</summary>
    public long LengthBytes { get; }

    /// <summary>What stands behind the memory.</summary>
    public MemoryBufferKind Kind { get; }

    /// <summary>Whether a write to the memory is a fault: so for a mapped file, and for a memfd that is filled.</summary>
    public bool IsReadOnly => Kind == MemoryBufferKind.MappedFile || _frozen;

    /// <summary>The file or memfd behind the memory, byte 0 of it at <see cref="Address"/>; null when there is none. Owned by the buffer.</summary>
    public SafeFileHandle? FileDescriptor => _file;

    /// <summary>Whether <see cref="TryLock(out string)"/> or its overload succeeded.</summary>
    public bool IsLocked => Volatile.Read(ref _locked) != 0;

    /// <summary>The mapping, for who must keep it beyond the owner's Dispose.</summary>
    internal MemoryRegionHandle Region => _region;

    /// <summary>Maps a whole regular file shared and read-only; takes no time for its size, pages come when touched.</summary>
    /// <exception cref="CheckpointEngineException">The file is missing, empty, no regular file, or cannot be mapped.</exception>
    public static MemoryBuffer MapFile(string path)
    {
        SafeFileHandle file = RegularFile.Open(path, out _);
        try
        {
            return MapFile(file, path, leaveOpen: false);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>As <see cref="MapFile(string)"/>, of an open file.</summary>
    /// <param name="file">The file, opened for reading.</param>
    /// <param name="name">What messages call it.</param>
    /// <param name="leaveOpen">False: on success the buffer owns <paramref name="file"/>. True: the caller keeps it, and open while the buffer lives.</param>
    public static MemoryBuffer MapFile(SafeFileHandle file, string name, bool leaveOpen)
    {
        ArgumentNullException.ThrowIfNull(file);
        return Map(file, name, leaveOpen, MemoryBufferKind.MappedFile);
    }

    /// <summary>Maps a file or memfd that another process has handed over, shared and read-only.</summary>
    /// <param name="file">Its descriptor; on success the buffer owns it.</param>
    /// <param name="name">What messages call it.</param>
    /// <exception cref="CheckpointEngineException">It is empty, no regular file, or cannot be mapped.</exception>
    internal static MemoryBuffer Attach(SafeFileHandle file, string name)
        => Map(file, name, leaveOpen: false, IsSealed(file) ? MemoryBufferKind.Memfd : MemoryBufferKind.MappedFile);

    /// <summary>Whether nobody can make a file shorter or change it: so for a memfd with seals.</summary>
    internal static bool IsSealed(SafeFileHandle file)
    {
        bool held = false;
        try
        {
            file.DangerousAddRef(ref held);
            int seals = Libc.fcntl((int)file.DangerousGetHandle(), Libc.F_GET_SEALS, 0);
            return seals > 0 && (seals & Libc.F_SEAL_SHRINK) != 0 && (seals & Libc.F_SEAL_WRITE) != 0;
        }
        finally
        {
            if (held)
            {
                file.DangerousRelease();
            }
        }
    }

    private static MemoryBuffer Map(SafeFileHandle file, string name, bool leaveOpen, MemoryBufferKind kind)
    {
        long lengthBytes = RegularFile.GetLength(file, name);
        if (lengthBytes == 0)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"map {name}: the file is empty");
        }
        ProcessLimits.ThrowIfBeyondAddresses(lengthBytes, name);
        bool held = false;
        try
        {
            file.DangerousAddRef(ref held);
            MemoryRegionHandle region = MemoryRegionHandle.Map((nuint)lengthBytes, Libc.PROT_READ, Libc.MAP_SHARED,
                (int)file.DangerousGetHandle(), $"{lengthBytes:N0} bytes of {name}");
            AdviseHugePages(region, lengthBytes);   // counts for files of a tmpfs mounted with huge=advise
            return new MemoryBuffer(region, lengthBytes, kind, file, !leaveOpen, name) { _frozen = kind == MemoryBufferKind.Memfd };
        }
        finally
        {
            if (held)
            {
                file.DangerousRelease();
            }
        }
    }

    /// <summary>Allocates zeroed memory of this process alone, at a multiple of 2 MiB, in huge pages where the kernel gives them.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>: the host has not that much available.</exception>
    public static MemoryBuffer AllocateAnonymous(long lengthBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(lengthBytes);
        string subject = $"{lengthBytes:N0} bytes of anonymous memory";
        HostMemory.ThrowIfBeyond(lengthBytes, subject);
        ProcessLimits.ThrowIfBeyondMemory(lengthBytes, subject);
        MemoryRegionHandle region = MemoryRegionHandle.Map((nuint)Math.Max(1, lengthBytes), Libc.PROT_READ | Libc.PROT_WRITE,
            Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS, -1, subject);
        AdviseHugePages(region, lengthBytes);
        return new MemoryBuffer(region, lengthBytes, MemoryBufferKind.Anonymous, null, false, subject);
    }

    /// <summary>
    /// Allocates a zeroed memfd and maps it at a multiple of 2 MiB, to be filled. Its size is sealed, and so are further writable mappings
    /// (Linux 5.1): who is given the descriptor can read and map it, and neither change it nor take it away. <see cref="Freeze"/> ends the filling.
    /// </summary>
    /// <param name="lengthBytes">Length in bytes.</param>
    /// <param name="name">What <c>/proc/PID/maps</c> shows; cut at 200 bytes.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>: the host has not that much available.</exception>
    public static MemoryBuffer AllocateMemfd(long lengthBytes, string name)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(lengthBytes);
        ArgumentNullException.ThrowIfNull(name);
        string subject = $"{lengthBytes:N0} bytes of memfd '{name}'";
        HostMemory.ThrowIfBeyond(lengthBytes, subject);
        ProcessLimits.ThrowIfBeyondAddresses(lengthBytes, subject);
        ProcessLimits.ThrowIfBeyondFileSize(lengthBytes, subject);
        SafeFileHandle file = CreateMemfd(name);
        int fd = (int)file.DangerousGetHandle();
        MemoryRegionHandle? region = null;
        try
        {
            long fileBytes = Math.Max(1, lengthBytes);
            if (Libc.ftruncate(fd, fileBytes) != 0)
            {
                ThrowHelper.ThrowNative("ftruncate", subject, Marshal.GetLastPInvokeError());
            }
            region = MemoryRegionHandle.Map((nuint)fileBytes, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, fd, subject);
            const int Size = Libc.F_SEAL_SHRINK | Libc.F_SEAL_GROW;
            if (Libc.fcntl(fd, Libc.F_ADD_SEALS, Size | Libc.F_SEAL_FUTURE_WRITE) != 0 && Libc.fcntl(fd, Libc.F_ADD_SEALS, Size) != 0)
            {
                ThrowHelper.ThrowNative("fcntl F_ADD_SEALS", subject, Marshal.GetLastPInvokeError());
            }
            AdviseHugePages(region, lengthBytes);
            return new MemoryBuffer(region, lengthBytes, MemoryBufferKind.Memfd, file, true, subject);
        }
        catch
        {
            region?.Dispose();
            file.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Ends the filling of a memfd: from here on its bytes can be changed by nobody, this process included, and its descriptor is one for reading. Does
    /// nothing for other memory, or again.
    /// </summary>
    /// <remarks>What was locked is so no more. Nobody else may use the memory during the call: it is away for a moment, since the kernel seals nothing that is mapped for writing.</remarks>
    /// <exception cref="CheckpointEngineException">The kernel refused; the memory is of no more use.</exception>
    internal void Freeze()
    {
        if (Kind != MemoryBufferKind.Memfd || _frozen)
        {
            return;
        }
        SafeFileHandle writable = _file!;
        int fd = (int)writable.DangerousGetHandle();
        // A mapping of a descriptor that may write counts as writable, whatever its protection.
        SafeFileHandle readable = RegularFile.Open($"/proc/self/fd/{fd}", out _);
        try
        {
            _region.Replace(Libc.PROT_NONE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_NORESERVE, -1, _subject);
            if (Libc.fcntl(fd, Libc.F_ADD_SEALS, Libc.F_SEAL_WRITE | Libc.F_SEAL_SEAL) != 0)
            {
                ThrowHelper.ThrowNative("fcntl F_ADD_SEALS", _subject, Marshal.GetLastPInvokeError());
            }
            _region.Replace(Libc.PROT_READ, Libc.MAP_SHARED, (int)readable.DangerousGetHandle(), _subject);
        }
        catch
        {
            readable.Dispose();
            throw;
        }
        _file = readable;
        _frozen = true;
        writable.Dispose();
        AdviseHugePages(_region, LengthBytes);
        Volatile.Write(ref _locked, 0);      // a lock goes with its mapping
    }

    /// <summary>Wraps memory that the caller owns and keeps until the buffer is disposed and no transfer uses it.</summary>
    public static MemoryBuffer Borrow(nint address, long lengthBytes)
    {
        ArgumentOutOfRangeException.ThrowIfZero(address);
        ArgumentOutOfRangeException.ThrowIfNegative(lengthBytes);
        if ((nuint)lengthBytes > nuint.MaxValue - (nuint)address)
        {
            throw new ArgumentOutOfRangeException(nameof(lengthBytes), "the memory wraps around the address space");
        }
        return new MemoryBuffer(MemoryRegionHandle.Borrow(address), lengthBytes, MemoryBufferKind.Borrowed, null, false,
            $"{lengthBytes:N0} bytes of the caller's memory");
    }

    /// <summary>A writable view; valid until Dispose.</summary>
    /// <exception cref="InvalidOperationException">The memory is a mapped file, which is read-only.</exception>
    public Span<byte> GetSpan(long offset, int length)
    {
        if (IsReadOnly)
        {
            throw new InvalidOperationException($"{_subject} is mapped read-only; use {nameof(GetReadOnlySpan)}");
        }
        CheckRange(offset, length);
        return new Span<byte>((byte*)Address + offset, length);
    }

    /// <summary>A read-only view; valid until Dispose.</summary>
    public ReadOnlySpan<byte> GetReadOnlySpan(long offset, int length)
    {
        CheckRange(offset, length);
        return new ReadOnlySpan<byte>((byte*)Address + offset, length);
    }

    /// <summary>A view for asynchronous calls; keep the buffer undisposed while one runs. Allocates one small object.</summary>
    public ReadOnlyMemory<byte> AsMemory(long offset, int length)
    {
        CheckRange(offset, length);
        return new RegionMemoryManager(this, Address + (nint)offset, length).Memory;
    }

    /// <summary>Faults all pages in and keeps them in memory until Dispose.</summary>
    /// <param name="reason">Null on success; else why not and, when the limit forbids it, the <c>ulimit -l</c> in KiB that is needed.</param>
    public bool TryLock(out string? reason) => TryLock(onFault: false, out reason);

    /// <summary>Keeps pages in memory until Dispose.</summary>
    /// <param name="onFault">True: pages stay from their first touch on, and the call takes no time for the size. False: all are faulted in now.</param>
    /// <param name="reason">Null on success; else why not and, when the limit forbids it, the <c>ulimit -l</c> in KiB that is needed.</param>
    /// <remarks>Locks do not nest in the kernel: a page of borrowed memory that the caller had locked too is unlocked by Dispose.</remarks>
    public bool TryLock(bool onFault, out string? reason)
    {
        reason = null;
        void* address = (void*)Address;
        nuint length = (nuint)LengthBytes;
        int result = onFault ? Libc.mlock2(address, length, Libc.MLOCK_ONFAULT) : Libc.mlock(address, length);
        if (result == 0)
        {
            Volatile.Write(ref _locked, 1);
            return true;
        }
        int errno = Marshal.GetLastPInvokeError();
        reason = $"mlock {_subject}: {Marshal.GetPInvokeErrorMessage(errno)} (errno {errno})";
        if (errno is Libc.ENOMEM or Libc.EPERM or Libc.EAGAIN)
        {
            reason += "; " + HostMemory.LockAdvice(LengthBytes);
        }
        return false;
    }

    /// <summary>Takes <see cref="TryLock(bool, out string)"/> back.</summary>
    internal void Unlock()
    {
        if (Interlocked.Exchange(ref _locked, 0) != 0)
        {
            _ = Libc.munlock((void*)_address, (nuint)LengthBytes);
        }
    }

    /// <summary>Starts reading a part of a mapped file ahead; does nothing for other memory. Advice only: never fails.</summary>
    /// <remarks>Blocks while requests are queued, which for many GiB can take a second.</remarks>
    public void Prefetch(long offset, long length)
    {
        CheckRange(offset, length);
        if (Kind == MemoryBufferKind.MappedFile)
        {
            nint down = (Address + (nint)offset) & ~((nint)Environment.SystemPageSize - 1);
            _ = Libc.madvise((void*)down, (nuint)(Address + (nint)offset - down + (nint)length), Libc.MADV_WILLNEED);
        }
    }

    /// <summary>Checks that the file behind a mapping still has all bytes that were mapped; does nothing for other memory.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Io"/>: it was truncated; its memory must not be touched any more.</exception>
    public void CheckBackingSize()
    {
        ObjectDisposedException.ThrowIf(_region.IsClosed, this);
        if (Kind != MemoryBufferKind.MappedFile)
        {
            return;
        }
        long now = RegularFile.GetLength(_file!, _subject);
        if (now < LengthBytes)
        {
            ThrowHelper.Throw(CheckpointError.Io,
                $"{_subject} had {LengthBytes:N0} bytes when it was mapped and has {now:N0} now: somebody truncated it; replace checkpoints by rename, or copy them (--hold anon)");
        }
    }

    /// <summary>Unmaps what the buffer owns once no transfer uses it, and closes its file. Calling it again does nothing.</summary>
    public void Dispose()
    {
        if (Kind == MemoryBufferKind.Borrowed)   // elsewhere the lock goes with the pages
        {
            Unlock();
        }
        _region.Dispose();
        if (_ownsFile)
        {
            _file?.Dispose();
        }
    }

    private void CheckRange(long offset, long length)
    {
        if (offset < 0 || length < 0 || offset > LengthBytes - length)
        {
            throw new ArgumentOutOfRangeException(nameof(offset), $"{length:N0} bytes at {offset:N0} of a buffer of {LengthBytes:N0}");
        }
    }

    private static SafeFileHandle CreateMemfd(string name)
    {
        Span<byte> utf8 = stackalloc byte[201];
        _ = Encoding.UTF8.TryGetBytes(name, utf8[..200], out int written);
        utf8[written] = 0;
        int fd;
        fixed (byte* p = utf8)
        {
            fd = Libc.memfd_create(p, Libc.MFD_CLOEXEC | Libc.MFD_ALLOW_SEALING);
        }
        if (fd < 0)
        {
            ThrowHelper.ThrowNative("memfd_create", name, Marshal.GetLastPInvokeError());
        }
        return new SafeFileHandle(fd, ownsHandle: true);
    }

    // Without huge pages the memory is slower at first touch and nothing else: refusal is no error.
    private static void AdviseHugePages(MemoryRegionHandle region, long lengthBytes)
        => _ = Libc.madvise((void*)region.DangerousGetHandle(), (nuint)lengthBytes, Libc.MADV_HUGEPAGE);
}
