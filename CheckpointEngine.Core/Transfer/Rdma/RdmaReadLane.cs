using System.Diagnostics;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Reads an owner's memory by RDMA READ between one device here and one there.</summary>
/// <remarks>
/// <para>A request goes to one queue pair as a chain of work requests, and small ones go together: one post, and one completion for the last of them, which
/// is that of all since a queue pair completes in order. Who waits looks for completions for some microseconds, and then sleeps until the device has one.</para>
/// <para>Submitting and waiting allocate nothing. Source: ibv_post_send(3), ibv_poll_cq(3), ibv_get_cq_event(3); docs/mooncake-wire.md, section 5.</para>
/// </remarks>
internal sealed unsafe partial class RdmaReadLane : IReadLane
{
    internal const string Name = SegmentDescriptor.RdmaProtocol;

    // Mooncake's number; a peer of another number would refuse us.
    private const int QueuePairs = 2;

    // Of one work request. Large enough that posting costs nothing, small enough that what was lost on the way is soon sent again.
    private const int SliceBytes = 256 << 10;

    private const int MaxRequests = 64;

    // What goes to the device together. Each post and each wake-up costs some calls of the kernel; and enough others are in flight not to notice.
    private const int BatchBytes = 512 << 10;
    private const int MaxBatch = 16;

    private const int BytesInFlight = 16 << 20;      // of which some are hashed while others come
    private const int PollBatch = 16;
    private const int SleepMilliseconds = 100;
    private static readonly long s_spinTicks = Stopwatch.Frequency / 50_000;        // 20 us: longer than a read of 64 KiB takes

    private readonly RdmaOwner _owner;
    private readonly RdmaNic _nic;
    private readonly int _local;
    private readonly int _remote;
    private readonly CancellationTokenSource _abort = new();
    private readonly Request[] _requests = new Request[MaxRequests];
    private readonly int[] _outstanding = new int[QueuePairs];
    private readonly SlotQueue[] _posted = [new(), new()];      // by queue pair, in the order that they complete in
    private readonly SlotQueue _batch = new();                  // submitted, and not posted yet
    private readonly SlotQueue _ready = new();                  // completed, and nobody has been told
    private int _batchPair;
    private int _batchWork;
    private int _batchBytes;
    private RdmaQueuePairs? _pairs;
    private LibIbverbs.IbvSendWr* _work;      // room for the longest chain
    private LibIbverbs.IbvSge* _pieces;
    private LibIbverbs.IbvWc* _completions;
    private int _completionAt;
    private int _completionCount;
    private int _maxChain;
    private long _lastProgress;
    private GidTableEntry _own = GidTableEntry.None;
    private int _epoch;                       // of the device, when it connected
    private string? _failure;
    private bool _failureOfOwner;
    private bool _hasRead;
    private bool _peerIsGone;
    private bool _disposed;
    private volatile bool _aborted;

    // Slots of requests, first in first out; never more than there are.
    private sealed class SlotQueue
    {
        private readonly int[] _slots = new int[MaxRequests];
        private int _first;

        internal int Count { get; private set; }

        internal void Add(int slot) => _slots[(_first + Count++) % MaxRequests] = slot;

        internal int Take()
        {
            int slot = _slots[_first];
            _first = (_first + 1) % MaxRequests;
            Count--;
            return slot;
        }
    }

    private struct Request
    {
        internal int Tag;
        internal int Pair;
        internal int WorkRequests;
        internal bool InFlight;
    }

    internal RdmaReadLane(RdmaOwner owner, int local, int remote)
    {
        _owner = owner;
        _local = local;
        _remote = remote;
        _nic = owner.Plane.Nics[local];
    }

    public string TransportName => Name;

    public int QueueDepth => _pairs is null ? MaxRequests : Math.Min(MaxRequests, _pairs.Requests);

    public int QueueBytes => _pairs is null ? BytesInFlight : Math.Min(BytesInFlight, _pairs.Requests / 2 * SliceBytes);

    public bool WritesInTurn => false;

    /// <summary>Why it is of no more use; null while it is.</summary>
    internal string? Failure => _failure;

    /// <summary>How much of <see cref="Connect()"/> went into the library and the kernel, which make and connect queue pairs.</summary>
    internal TimeSpan VerbsTime { get; private set; }

    /// <summary>How much of <see cref="Connect()"/> went into the exchange with the owner.</summary>
    internal TimeSpan ExchangeTime { get; private set; }

    /// <summary>The two devices by their places, ours first.</summary>
    internal (int Local, int Remote) Pair => (_local, _remote);

    /// <summary>The two devices, ours first.</summary>
    internal string PairName => $"{_nic.Name}-{_owner.DeviceName(_remote)}";

    /// <summary>Ends what is in flight: the device writes to no destination any more.</summary>
    public void Quiesce() => _pairs?.Dispose();

    public IDisposable? Prepare(nint memory, long lengthBytes) => _owner.Memory.Add(memory, lengthBytes);

    public void Connect()
    {
        try
        {
            _maxChain = Math.Min(RdmaQueuePairs.RequestsPerQueuePair, _nic.Limits.MaxQueuePairRequests);
            _work = (LibIbverbs.IbvSendWr*)NativeMemory.AllocZeroed((nuint)_maxChain, (nuint)sizeof(LibIbverbs.IbvSendWr));
            _pieces = (LibIbverbs.IbvSge*)NativeMemory.AllocZeroed((nuint)_maxChain, (nuint)sizeof(LibIbverbs.IbvSge));
            _completions = (LibIbverbs.IbvWc*)NativeMemory.AllocZeroed(PollBatch, (nuint)sizeof(LibIbverbs.IbvWc));
            _epoch = _nic.Epoch;
            Connect(_nic.Gids);
            _lastProgress = Stopwatch.GetTimestamp();
        }
        catch (CheckpointEngineException failure)
        {
            _failure = _aborted ? null : failure.Message;
            throw;
        }
        catch (Exception failure) when (failure is System.Net.Sockets.SocketException or ObjectDisposedException)
        {
            _failure = failure.Message;
            throw new CheckpointEngineException(CheckpointError.Unreachable, $"connect to {_owner.Name} over RDMA: {failure.Message}", 0, failure);
        }
        catch (OperationCanceledException)
        {
            throw new CheckpointEngineException(CheckpointError.Unreachable, $"connect to {_owner.Name} over RDMA: aborted");
        }
    }

    // The peer is told our GID before the kernel says whether there is a way between the two: then another one, with queue pairs of their own.
    private void Connect(GidTableEntry[] candidates)
    {
        if (candidates.Length == 0)
        {
            throw new CheckpointEngineException(CheckpointError.Unreachable, $"connect to {_owner.Name} over RDMA: device {_nic.Name} has no GID any more");
        }
        for (int i = 0; ; i++)
        {
            long start = Stopwatch.GetTimestamp();
            _pairs = new RdmaQueuePairs(_nic, QueuePairs, reads: true, isRead: !_owner.IsOurs);      // a plain peer may read back over them
            VerbsTime += Stopwatch.GetElapsedTime(start);
            try
            {
                ConnectAsync(_pairs, _own = candidates[i]).GetAwaiter().GetResult();
                return;
            }
            catch (CheckpointEngineException failure) when (i + 1 < candidates.Length && RdmaQueuePairs.IsOfGid(failure))
            {
                _pairs.Dispose();
            }
        }
    }

    public void Submit(in ReadRequest request)
    {
        int slot = 0;
        while (_requests[slot].InFlight)
        {
            slot++;
        }
        if (_batchWork != 0 && !TryChain(request, slot))
        {
            Post();
        }
        if (_batchWork == 0)
        {
            _batchPair = _outstanding[0] <= _outstanding[1] ? 0 : 1;
            if (!TryChain(request, slot))
            {
                Fail($"a request lies in more than {_maxChain} regions");
            }
        }
        if (_batchBytes >= BatchBytes || _batch.Count == MaxBatch)
        {
            Post();
        }
    }

    // False when there is no room for all of its work requests.
    private bool TryChain(in ReadRequest request, int slot)
    {
        int chain = _batchWork;
        ulong remote = request.RemoteAddress;
        nint local = request.Destination;
        for (int left = request.LengthBytes; left > 0 && _failure is null;)
        {
            if (chain == _maxChain)
            {
                return false;
            }
            if (!_owner.TryFindKey(remote, _remote, out uint remoteKey, out ulong remoteEnd))
            {
                FailOwner($"it does not offer 0x{remote:x} over RDMA");
                break;
            }
            if (!_owner.Memory.TryFind(local, _local, out uint localKey, out nint localEnd))
            {
                Fail($"0x{local:x} is not registered here");
                break;
            }
            int length = (int)Math.Min((ulong)Math.Min(Math.Min(left, SliceBytes), (long)Math.Min(_nic.Port.MaxMessageBytes, localEnd - local)), remoteEnd - remote);
            _pieces[chain] = new LibIbverbs.IbvSge { addr = (ulong)local, length = (uint)length, lkey = localKey };
            ref LibIbverbs.IbvSendWr work = ref _work[chain];
            work = default;
            work.wr_id = (ulong)slot;
            work.sg_list = _pieces + chain;
            work.num_sge = 1;
            work.opcode = LibIbverbs.IBV_WR_RDMA_READ;
            work.wr.rdma.remote_addr = remote;
            work.wr.rdma.rkey = remoteKey;
            if (chain != 0)
            {
                _work[chain - 1].next = _work + chain;
            }
            chain++;
            left -= length;
            remote += (ulong)length;
            local += length;
        }
        _requests[slot] = new Request { Tag = request.Tag, Pair = _batchPair, WorkRequests = chain - _batchWork, InFlight = true };
        _batch.Add(slot);
        _batchWork = chain;
        _batchBytes += request.LengthBytes;
        return true;
    }

    // Sends the batch to the device.
    private void Post()
    {
        if (_failure is null && _batchWork != 0)
        {
            _work[_batchWork - 1].next = null;        // where a request that found no room began
            _work[_batchWork - 1].send_flags = LibIbverbs.IBV_SEND_SIGNALED;
            if (_outstanding[0] + _outstanding[1] == 0)
            {
                _lastProgress = Stopwatch.GetTimestamp();
            }
            _outstanding[_batchPair] += _batchWork;
            LibIbverbs.IbvSendWr* bad;
            int errno = _outstanding[_batchPair] > _pairs!.Requests ? Libc.ENOMEM : LibIbverbs.ibv_post_send(_pairs[_batchPair], _work, &bad);
            if (errno != 0)
            {
                Fail($"posting a read: {VerbsStatus.Errno(errno)}");
            }
        }
        while (_batch.Count != 0)
        {
            _posted[_batchPair].Add(_batch.Take());
        }
        _batchWork = _batchBytes = 0;
    }

    public ReadCompletion Wait(IReadProgress? progress)
    {
        long now = Stopwatch.GetTimestamp();
        long spinUntil = now + s_spinTicks;
        while (_failure is null && !_aborted)
        {
            if (TryTakeCompletion(out ReadCompletion completion))
            {
                _lastProgress = Stopwatch.GetTimestamp();
                return completion;
            }
            now = Stopwatch.GetTimestamp();
            if (_failure is not null || now < spinUntil)
            {
                continue;
            }
            if (Stopwatch.GetElapsedTime(_lastProgress, now) > _owner.StallTimeout)
            {
                _peerIsGone = true;
                Fail($"nothing has completed for {_owner.StallTimeout.TotalSeconds:0.#} s");
                continue;
            }
            _pairs!.RequestEvent();
            if (_completionAt == _completionCount && !PollAgain())
            {
                var descriptor = new Libc.PollFd { fd = _pairs.EventDescriptor, events = Libc.POLLIN };
                // So often, too, it looks whether it was aborted, and its device lives.
                if (Libc.poll(&descriptor, 1, SleepMilliseconds) > 0)
                {
                    _pairs.TakeEvent();
                }
                if (_nic.Failure is string gone)
                {
                    Fail(gone);
                }
                else if (_nic.Epoch != _epoch && !_nic.Has(_own))
                {
                    Fail($"its GID {_own.AddressText} is no more");
                }
            }
        }
        return End(_aborted ? ReadStatus.Aborted : ReadStatus.Broken);
    }

    private bool TryTakeCompletion(out ReadCompletion completion)
    {
        if (_ready.Count == 0 && !TryComplete())
        {
            completion = default;
            return false;
        }
        ref Request request = ref _requests[_ready.Take()];
        request.InFlight = false;
        completion = new ReadCompletion(request.Tag, ReadStatus.Done);
        return true;
    }

    // Takes one completion off the device: of all requests that were posted to that queue pair up to its own.
    private bool TryComplete()
    {
        if (_completionAt == _completionCount)
        {
            Post();                                   // what was submitted while the last completions were handed out
            if (!PollAgain())
            {
                return false;
            }
        }
        LibIbverbs.IbvWc* taken = _completions + _completionAt++;
        if (taken->status != LibIbverbs.IBV_WC_SUCCESS)
        {
            string words = $"{VerbsStatus.DescribeCompletion(taken->status)} (vendor error 0x{taken->vendor_err:x})";
            _peerIsGone = taken->status is LibIbverbs.IBV_WC_RETRY_EXC_ERR;
            // To who reads with a lease the last one says that it is revoked.
            if (taken->status is LibIbverbs.IBV_WC_REM_ACCESS_ERR or LibIbverbs.IBV_WC_REM_OP_ERR || (taken->status == LibIbverbs.IBV_WC_REM_INV_REQ_ERR && _owner.Key is not null))
            {
                FailOwner(words);
            }
            else
            {
                Fail(words);
            }
            return false;
        }
        _hasRead = true;
        int last = (int)taken->wr_id;
        int pair = _requests[last].Pair;
        int slot;
        do
        {
            slot = _posted[pair].Take();
            _outstanding[pair] -= _requests[slot].WorkRequests;
            _ready.Add(slot);
        }
        while (slot != last);
        return true;
    }

    private bool PollAgain()
    {
        int count = _pairs!.Poll(_completions, PollBatch);
        if (count < 0)
        {
            Fail("its completion queue failed");
        }
        _completionAt = 0;
        _completionCount = Math.Max(0, count);
        return count > 0;
    }

    // Any of those in flight: none of them is of use after it. Who reads them again writes to the same places: the device must be done with them first.
    private ReadCompletion End(ReadStatus status)
    {
        _pairs!.Dispose();
        int slot = Array.FindIndex(_requests, request => request.InFlight);
        return new ReadCompletion(_requests[Math.Max(0, slot)].Tag, status);
    }

    private void Fail(string reason) => _failure ??= reason;

    private void FailOwner(string reason)
    {
        Fail(reason);
        _failureOfOwner = true;
    }

    public void Abort()
    {
        _aborted = true;
        _abort.Cancel();
    }

    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }
        _disposed = true;
        try
        {
            _pairs?.Dispose();                // from here on nothing writes to our memory
            if (_owner.IsOurs && !_peerIsGone && _lastProgress != 0)
            {
                TellEnd(_pairs!.Numbers);
            }
        }
        finally
        {
            _owner.Return(_local, _remote, _failure, _failureOfOwner, _epoch, mayHeal: _hasRead && _peerIsGone);
            NativeMemory.Free(_work);
            NativeMemory.Free(_pieces);
            NativeMemory.Free(_completions);
            _abort.Dispose();
        }
    }
}
