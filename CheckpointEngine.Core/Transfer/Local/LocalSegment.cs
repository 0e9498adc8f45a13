using System.Runtime.InteropServices;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;
using CheckpointEngine.Peers;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Transfer.Local;

/// <summary>A registered range of an owner on this host, as this process reaches it: a file or memfd, or the owner's memory itself.</summary>
/// <remarks>Owns the descriptor and the mapping. Any number of threads, but for <see cref="TakeMapping"/> and Dispose.</remarks>
internal sealed unsafe class LocalSegment : IDisposable
{
    private const long ReachBytes = 1 << 20;

    private SafeFileHandle? _file;
    private readonly long _fileOffset;
    private readonly int _ownerProcess;
    private MemoryBuffer? _mapping;
    private bool[] _isReached = [];     // of each block of the mapping: whether its page tables were made
    private bool _isTaken;

    private LocalSegment(MemoryAnswer answer, SafeFileHandle? file, int ownerProcess, bool isSealed, string? noAttachReason)
    {
        Address = answer.Address;
        LengthBytes = answer.LengthBytes;
        _file = file;
        _fileOffset = (long)answer.FileOffset;
        _ownerProcess = ownerProcess;
        IsSealed = isSealed;
        NoAttachReason = noAttachReason;
    }

    /// <summary>Where it begins in the owner's process.</summary>
    internal ulong Address { get; }

    /// <summary>Its length.</summary>
    internal ulong LengthBytes { get; }

    /// <summary>Whether nobody can change or shorten it: then it may be read through a mapping.</summary>
    internal bool IsSealed { get; }

    /// <summary>Whether it is read out of the owner's process.</summary>
    internal bool IsOfProcess => _ownerProcess != 0;

    /// <summary>Why it cannot be attached to; null when it can.</summary>
    internal string? NoAttachReason { get; }

    /// <summary>Takes what an owner has answered, and checks it against what the kernel says of the descriptor.</summary>
    /// <param name="answer">The answer.</param>
    /// <param name="file">The descriptor that came with it; owned by the segment, or disposed when this throws.</param>
    /// <param name="owner">Who answered.</param>
    /// <param name="attachFiles">Attach to files that others may write, too.</param>
    /// <exception cref="CheckpointEngineException">The file is too short, or the owner's memory cannot be read from here: the reason.</exception>
    internal static LocalSegment Open(in MemoryAnswer answer, SafeFileHandle? file, PeerCredentials owner, bool attachFiles)
    {
        try
        {
            if (file is null)
            {
                ProbeProcess(owner.ProcessId, answer.Address);
                return new LocalSegment(answer, null, owner.ProcessId, false, "no file stands behind its memory (it is held as anonymous memory, or the owner's program's own)");
            }
            RegularFile.Status status = RegularFile.GetStatus(file, "the owner's memory");
            if ((ulong)status.LengthBytes < answer.FileOffset + answer.LengthBytes)
            {
                ThrowHelper.Throw(CheckpointError.Io, $"its file has {status.LengthBytes:N0} bytes, and {answer.FileOffset + answer.LengthBytes:N0} are told");
            }
            bool isSealed = MemoryBuffer.IsSealed(file);
            string? reason = isSealed || attachFiles ? null
                : answer.Access != MemoryAccess.Attach ? "its file may be written by others than its owner (serve it with --attach-files to take that risk)"
                : status.UserId != owner.UserId && status.UserId != Libc.geteuid() && status.UserId != 0 ? $"its file belongs to user {status.UserId}, neither the owner nor this user (--attach-files takes the risk)"
                : status.IsWritableByOthers ? "its file may be written by others (--attach-files takes the risk)"
                : null;
            return new LocalSegment(answer, file, 0, isSealed, reason);
        }
        catch
        {
            file?.Dispose();
            throw;
        }
    }

    /// <summary>Whether <c>[address, address + length)</c> lies inside.</summary>
    internal bool Contains(ulong address, ulong lengthBytes) => address >= Address && lengthBytes <= LengthBytes && address - Address <= LengthBytes - lengthBytes;

    /// <summary>Maps the file behind it, once.</summary>
    /// <exception cref="CheckpointEngineException">The kernel refused, or the file is shorter than it was.</exception>
    internal void Map()
    {
        if (_mapping is not null)
        {
            return;
        }
        MemoryBuffer mapping = MemoryBuffer.Attach(_file!, "the owner's memory");
        _file = null;       // the mapping's from here on
        if (mapping.LengthBytes < _fileOffset + (long)LengthBytes)
        {
            mapping.Dispose();
            ThrowHelper.Throw(CheckpointError.Io, "map the owner's memory: its file was truncated");
        }
        _mapping = mapping;
        _isReached = new bool[(mapping.LengthBytes + ReachBytes - 1) / ReachBytes];
    }

    /// <summary>Whether <see cref="Map"/> was called.</summary>
    internal bool IsMapped => _mapping is not null;

    /// <summary>Where bytes of the owner are in this process, ready to be read; only while it is mapped.</summary>
    /// <remarks>Page tables are made in one call for each block, a twelfth cheaper than by faults; once, for where they are there it costs a fifth of a copy's rate.</remarks>
    internal nint Reach(ulong address, int lengthBytes)
    {
        long offset = OffsetInMapping(address);
        for (long block = offset / ReachBytes; block * ReachBytes < offset + lengthBytes; block++)
        {
            if (!Volatile.Read(ref _isReached[block]))
            {
                long bytes = Math.Min(ReachBytes, _mapping!.LengthBytes - block * ReachBytes);
                _ = Libc.madvise((void*)(_mapping.Address + (nint)(block * ReachBytes)), (nuint)bytes, Libc.MADV_POPULATE_READ);      // before Linux 5.14 the faults do it
                Volatile.Write(ref _isReached[block], true);
            }
        }
        return _mapping!.Address + (nint)offset;
    }

    /// <summary>Bytes from the mapping's start to an address of the owner.</summary>
    internal long OffsetInMapping(ulong address) => _fileOffset + (long)(address - Address);

    /// <summary>The mapping, which belongs to the caller from here on.</summary>
    internal MemoryBuffer TakeMapping()
    {
        _isTaken = true;
        return _mapping!;
    }

    /// <summary>Copies bytes to memory of this process; blocks. Allocates nothing unless it fails.</summary>
    /// <returns>0; or an errno, ESRCH when the owner's process is gone, ENODATA (61) when the file ends before.</returns>
    internal int Read(ulong address, nint destination, int lengthBytes)
    {
        while (lengthBytes != 0)
        {
            nint read = _file is not null
                ? Libc.pread(_file, (void*)destination, (nuint)lengthBytes, OffsetInMapping(address))
                : ReadProcess(_ownerProcess, address, (void*)destination, (nuint)lengthBytes);
            if (read <= 0)
            {
                int errno = read == 0 ? Libc.ENODATA : Marshal.GetLastPInvokeError();
                if (errno == Libc.EINTR)
                {
                    continue;
                }
                return errno;
            }
            address += (ulong)read;
            destination += read;
            lengthBytes -= (int)read;
        }
        return 0;
    }

    public void Dispose()
    {
        if (!_isTaken)
        {
            _mapping?.Dispose();
        }
        _file?.Dispose();
    }

    private static nint ReadProcess(int process, ulong address, void* destination, nuint lengthBytes)
    {
        var local = new Libc.IoVec { iov_base = destination, iov_len = lengthBytes };
        var remote = new Libc.IoVec { iov_base = (void*)address, iov_len = lengthBytes };
        return Libc.process_vm_readv(process, &local, 1, &remote, 1, 0);
    }

    private static void ProbeProcess(int process, ulong address)
    {
        if (process <= 0)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported, "its process is in a namespace that cannot be seen from here (share it: shareProcessNamespace, --pid), so its memory cannot be read by process_vm_readv");
        }
        byte probe;
        if (ReadProcess(process, address, &probe, 1) == 1)
        {
            return;
        }
        int errno = Marshal.GetLastPInvokeError();
        ThrowHelper.Throw(CheckpointError.NotSupported, errno switch
        {
            Libc.EPERM => $"the kernel does not let this process read the memory of process {process} (EPERM): both must be of one user, and neither Yama (kernel.yama.ptrace_scope) nor seccomp may forbid it",
            Libc.ESRCH => $"process {process} is gone, or hidden from this user (hidepid)",
            Libc.ENOSYS => "this kernel or container has no process_vm_readv (ENOSYS)",
            _ => $"process_vm_readv of process {process}: {Marshal.GetPInvokeErrorMessage(errno)}",
        });
    }
}
