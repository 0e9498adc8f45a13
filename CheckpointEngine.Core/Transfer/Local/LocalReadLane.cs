using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Local;

/// <summary>Reads memory of an owner on this host: hands out where it is mapped, or copies it by pread(2) or process_vm_readv(2).</summary>
/// <remarks>One thread. Allocates nothing unless it fails. Never copies out of a mapping that others could shorten: the pages would be gone under it.</remarks>
internal sealed class LocalReadLane : IReadLane
{
    internal const string Name = "local";

    // A piece is hashed while it is still in a core's own cache.
    private const int PieceBytes = 512 << 10;

    private readonly LocalMemory _memory;
    private ReadRequest _request;
    private bool _hasRequest;
    private volatile bool _aborted;

    internal LocalReadLane(LocalMemory memory) => _memory = memory;

    public string TransportName => Name;

    // There is nobody to wait for.
    public int QueueDepth => 1;

    public int QueueBytes => int.MaxValue;

    public bool WritesInTurn => true;

    public void Connect()
    {
    }

    public void Submit(in ReadRequest request)
    {
        if (_hasRequest)
        {
            throw new InvalidOperationException("a read is in flight");
        }
        _request = request;
        _hasRequest = true;
    }

    public ReadCompletion Wait(IReadProgress? progress)
    {
        _hasRequest = false;
        if (_aborted)
        {
            return new ReadCompletion(_request.Tag, ReadStatus.Aborted);
        }
        LocalSegment segment = _memory.Find(_request.RemoteAddress, (ulong)_request.LengthBytes);
        if (segment.IsMapped)
        {
            return new ReadCompletion(_request.Tag, ReadStatus.Done, segment.Reach(_request.RemoteAddress, _request.LengthBytes));
        }
        if (_memory.IsTakenBack)
        {
            _memory.Fail("the owner has taken its memory back");
            return new ReadCompletion(_request.Tag, ReadStatus.Broken);
        }
        for (int done = 0; done < _request.LengthBytes;)
        {
            int piece = progress is null ? _request.LengthBytes : Math.Min(PieceBytes, _request.LengthBytes - done);
            int errno = segment.Read(_request.RemoteAddress + (ulong)done, _request.Destination + done, piece);
            if (errno != 0)
            {
                _memory.Fail(errno switch
                {
                    Libc.ENODATA => "the file behind the owner's memory was truncated",
                    Libc.ESRCH => "the owner's process is gone",
                    Libc.EFAULT => "the owner has no memory there any more",
                    Libc.EPERM => "the kernel no longer lets this process read the owner's memory",
                    _ => Marshal.GetPInvokeErrorMessage(errno),
                });
                return new ReadCompletion(_request.Tag, ReadStatus.Broken);
            }
            done += piece;
            progress?.Arrived(_request.Tag, done);
            if (_aborted)
            {
                return new ReadCompletion(_request.Tag, ReadStatus.Aborted);
            }
        }
        return new ReadCompletion(_request.Tag, ReadStatus.Done);
    }

    public void Abort() => _aborted = true;

    public void Dispose()
    {
    }
}
