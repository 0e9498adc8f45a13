using System.Diagnostics;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Mooncake;

/// <summary>Reads an owner's memory through Mooncake's library, over whatever transport that has installed.</summary>
/// <remarks>
/// <para>What was submitted since the last wait goes to the library as one batch. It can only be polled: who waits looks again and again for some
/// microseconds, and then sleeps longer and longer in between, for the library's threads need the cores too.</para>
/// <para>A batch is freed once every request of it was seen to have ended, and never named again. Reads that do not end are ended with the engine.</para>
/// <para>Submitting and waiting allocate nothing of .NET's. Source: docs/mooncake-wire.md, section 6.</para>
/// </remarks>
internal sealed unsafe class MooncakeReadLane : IReadLane
{
    internal const string Name = "mooncake";

    private const int MaxRequests = 32;
    private const int BytesInFlight = 32 << 20;
    private const int FreeTries = 3;
    private const int ShortestSleepNanoseconds = 20_000;
    private const int LongestSleepNanoseconds = 200_000;      // at 100 GB/s less than what is in flight takes to arrive
    private static readonly long s_spinTicks = Stopwatch.Frequency / 100_000;      // 10 us

    // How long reads that nobody wants any more are waited for, before the engine is ended for their sake.
    private static readonly TimeSpan s_grace = TimeSpan.FromSeconds(2);

    private readonly MooncakeOwner _owner;
    private readonly MooncakeEngine _engine;
    private readonly Request[] _requests = new Request[MaxRequests];
    private readonly Batch[] _batches = new Batch[MaxRequests];
    private LibTransferEngine.TransferRequest* _held;      // submitted, and not given to the library yet
    private LibTransferEngine.TransferStatus* _status;
    private int _heldCount;
    private int _pollAt;
    private long _lastProgress;
    private int _failedTag = -1;
    private ReadStatus _failureStatus = ReadStatus.Broken;
    private bool _mayBeWritten;         // by reads that nobody can ask for any more
    private bool _entered;
    private bool _disposed;
    private volatile bool _aborted;

    private struct Request
    {
        internal int Tag;
        internal int Batch;
        internal int Task;
        internal ulong Transferred;
        internal bool InFlight;
    }

    private struct Batch
    {
        internal ulong Id;
        internal int Unfinished;
        internal bool Allocated;
    }

    internal MooncakeReadLane(MooncakeOwner owner)
    {
        _owner = owner;
        _engine = owner.Engine;
    }

    public string TransportName => Name;

    public int QueueDepth => MaxRequests;

    public int QueueBytes => BytesInFlight;

    public bool WritesInTurn => false;

    /// <summary>Why it is of no more use; null while it is.</summary>
    internal string? Failure { get; private set; }

    public void Connect()
    {
        _entered = !_aborted && _engine.TryEnter();
        if (!_entered)
        {
            throw new CheckpointEngineException(CheckpointError.Unreachable,
                $"read from {_owner.Name} through Mooncake's library: {(_aborted ? "aborted" : _engine.Failure ?? "its engine has ended")}");
        }
        _held = (LibTransferEngine.TransferRequest*)NativeMemory.AllocZeroed(MaxRequests, (nuint)sizeof(LibTransferEngine.TransferRequest));
        _status = (LibTransferEngine.TransferStatus*)NativeMemory.AllocZeroed(1, (nuint)sizeof(LibTransferEngine.TransferStatus));
    }

    // Registered memory can be read, and over TCP written, by whoever reaches the library's ports; TCP needs none of ours registered.
    public IDisposable? Prepare(nint memory, long lengthBytes)
    {
        if (!_engine.ReadsIntoRegistered)
        {
            return null;
        }
        _engine.Register([(memory, lengthBytes)]);
        return new Registration(_engine, memory);
    }

    public void Submit(in ReadRequest request)
    {
        int slot = 0;
        while (_requests[slot].InFlight)
        {
            slot++;
        }
        _requests[slot] = new Request { Tag = request.Tag, Batch = -1, Task = _heldCount, InFlight = true };
        _held[_heldCount++] = new LibTransferEngine.TransferRequest
        {
            opcode = LibTransferEngine.OPCODE_READ,
            source = (void*)request.Destination,
            target_id = _owner.Segment,
            target_offset = request.RemoteAddress,
            length = (ulong)request.LengthBytes,
        };
    }

    public ReadCompletion Wait(IReadProgress? progress)
    {
        GiveToLibrary();
        long start = _lastProgress = Stopwatch.GetTimestamp();      // what came while nobody looked is found at the first look
        var pause = new Libc.TimeSpec { tv_nsec = ShortestSleepNanoseconds };
        while (Failure is null && !_aborted)
        {
            if (TryTake(out ReadCompletion completion))
            {
                return completion;
            }
            long now = Stopwatch.GetTimestamp();
            if (Failure is not null || now - start < s_spinTicks)
            {
                continue;
            }
            if (_engine.Failure is string ended)
            {
                Fail(ended);
            }
            else if (Stopwatch.GetElapsedTime(_lastProgress, now) > _owner.StallTimeout)
            {
                Fail($"nothing has come for {_owner.StallTimeout.TotalSeconds:0.#} s", ReadStatus.Stalled);
            }
            else
            {
                _ = Libc.nanosleep(&pause, null);
                pause.tv_nsec = Math.Min(LongestSleepNanoseconds, pause.tv_nsec * 2);
            }
        }
        int slot = Array.FindIndex(_requests, request => request.InFlight);
        return new ReadCompletion(_failedTag >= 0 || slot < 0 ? Math.Max(0, _failedTag) : _requests[slot].Tag, _aborted ? ReadStatus.Aborted : _failureStatus);
    }

    private void GiveToLibrary()
    {
        if (_heldCount == 0 || Failure is not null || _aborted)
        {
            return;
        }
        int free = Array.FindIndex(_batches, batch => !batch.Allocated);
        ulong id = free < 0 ? ulong.MaxValue : LibTransferEngine.allocateBatchID(_engine.Pointer, (nuint)_heldCount);
        if (id is 0 or ulong.MaxValue)
        {
            Fail("the library gives no batch");
            return;
        }
        _batches[free] = new Batch { Id = id, Unfinished = _heldCount, Allocated = true };
        for (int slot = 0; slot < MaxRequests; slot++)
        {
            if (_requests[slot] is { InFlight: true, Batch: -1 })
            {
                _requests[slot].Batch = free;
            }
        }
        int code = LibTransferEngine.submitTransfer(_engine.Pointer, id, _held, (nuint)_heldCount);
        _heldCount = 0;
        if (code != 0)
        {
            Fail($"submitting reads: {MooncakeStatus.Describe(code)}");
            ForgetUnasked(free, code);
        }
    }

    // Some may have started, and which cannot be found out: a library that was built with assertions ends the process over a question for one that did not.
    private void ForgetUnasked(int batch, int code)
    {
        _mayBeWritten |= code is not (MooncakeStatus.TooManyRequests or MooncakeStatus.NoTransport);
        for (int slot = MaxRequests - 1; slot >= 0; slot--)
        {
            if (_requests[slot].InFlight && _requests[slot].Batch == batch)
            {
                _requests[slot].InFlight = false;
                _failedTag = _requests[slot].Tag;
            }
        }
        _batches[batch].Unfinished = 0;
        Free(ref _batches[batch]);
    }

    private bool TryTake(out ReadCompletion completion)
    {
        for (int i = 0; i < MaxRequests; i++)
        {
            int slot = (_pollAt + i) % MaxRequests;
            if (!_requests[slot].InFlight)
            {
                continue;
            }
            int status = Poll(slot);
            if (Failure is not null)
            {
                break;
            }
            if (status == LibTransferEngine.STATUS_COMPLETED)
            {
                _pollAt = (slot + 1) % MaxRequests;
                completion = new ReadCompletion(_requests[slot].Tag, ReadStatus.Done);
                return true;
            }
        }
        completion = default;
        return false;
    }

    // The request's status; one that has ended is out of flight, and its batch freed with the last of them.
    private int Poll(int slot)
    {
        ref Request request = ref _requests[slot];
        ref Batch batch = ref _batches[request.Batch];
        int code = LibTransferEngine.getTransferStatus(_engine.Pointer, batch.Id, (nuint)request.Task, _status);
        if (code != 0)
        {
            Fail($"asking for a read's status: {MooncakeStatus.Describe(code)}");
            return LibTransferEngine.STATUS_WAITING;
        }
        int status = _status->status;
        if (_status->transferred_bytes != request.Transferred)
        {
            request.Transferred = _status->transferred_bytes;
            _lastProgress = Stopwatch.GetTimestamp();
        }
        if (MooncakeStatus.IsFinal(status))
        {
            End(ref request, ref batch);
        }
        if (status is not (LibTransferEngine.STATUS_WAITING or LibTransferEngine.STATUS_PENDING or LibTransferEngine.STATUS_COMPLETED))
        {
            _failedTag = request.Tag;
            Fail(MooncakeStatus.DescribeEnd(status), status == LibTransferEngine.STATUS_TIMEOUT ? ReadStatus.Stalled : ReadStatus.Broken);
        }
        return status;
    }

    private void End(ref Request request, ref Batch batch)
    {
        request.InFlight = false;
        if (--batch.Unfinished == 0)
        {
            Free(ref batch);
        }
    }

    private void Free(ref Batch batch)
    {
        int code = 0;
        for (int left = FreeTries; left > 0 && (code = LibTransferEngine.freeBatchID(_engine.Pointer, batch.Id)) != 0; left--)
        {
            Thread.Yield();
        }
        if (code != 0)
        {
            _engine.Leaked(batch.Id, MooncakeStatus.Describe(code));
        }
        batch.Allocated = false;
    }

    private void Fail(string reason, ReadStatus status = ReadStatus.Broken)
    {
        if (Failure is null)
        {
            Failure = reason;
            _failureStatus = status;
        }
    }

    public void Abort() => _aborted = true;

    /// <summary>Waits until nothing is written to the destinations any more, if need be by ending the engine.</summary>
    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }
        _disposed = true;
        if (_entered)
        {
            if (HasDrained())
            {
                _engine.Exit();
            }
            else
            {
                _engine.Abandon($"reads from {_owner.Name} do not end ({Failure ?? "aborted"}), and the library has no way to cancel them");
            }
        }
        NativeMemory.Free(_held);
        NativeMemory.Free(_status);
    }

    private bool HasDrained()
    {
        long start = Stopwatch.GetTimestamp();
        var pause = new Libc.TimeSpec { tv_nsec = LongestSleepNanoseconds };
        while (true)
        {
            bool waits = false;
            for (int slot = 0; slot < MaxRequests; slot++)
            {
                ref Request request = ref _requests[slot];
                if (!request.InFlight || request.Batch < 0)
                {
                    continue;
                }
                if (LibTransferEngine.getTransferStatus(_engine.Pointer, _batches[request.Batch].Id, (nuint)request.Task, _status) == 0 && MooncakeStatus.IsFinal(_status->status))
                {
                    End(ref request, ref _batches[request.Batch]);
                }
                waits |= request.InFlight;
            }
            waits |= _mayBeWritten;
            if (!waits || _mayBeWritten || Stopwatch.GetElapsedTime(start) > s_grace)
            {
                return !waits;
            }
            _ = Libc.nanosleep(&pause, null);
        }
    }

    private sealed class Registration(MooncakeEngine engine, nint address) : IDisposable
    {
        public void Dispose() => engine.Unregister([address]);
    }
}
