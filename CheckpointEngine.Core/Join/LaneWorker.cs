using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Planning;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Local;
using CheckpointEngine.Transfer.Mooncake;
using CheckpointEngine.Transfer.Rdma;

namespace CheckpointEngine.Join;

/// <summary>One lane's thread: keeps requests in flight, checks what arrives while it is in cache, hands it to the destination.</summary>
/// <remarks>In the steady state a unit allocates nothing.</remarks>
internal sealed unsafe class LaneWorker : IReadProgress
{
    private const int MaxDepth = 64;
    private const int MaxStaged = 8;
    private const int StackBytes = 256 << 10;
    private const int StackBytesForLibrary = 1 << 20;      // Mooncake's library resolves names and parses JSON on it

    // How often this lane may break in a row before its owner counts as gone, and the pause before the next try.
    private const int MaxBreaksInRow = 3;
    private static readonly TimeSpan s_retryPause = TimeSpan.FromMilliseconds(100);

    private readonly TransferRun _run;
    private readonly Slot[] _slots = new Slot[MaxDepth];
    private readonly Lock _abortLock = new();
    private LaneCounts _counts;
    private IReadLane? _lane;
    private MemoryBuffer? _staging;
    private IDisposable? _stagingRegistration;
    private int _breaksInRow;
    private bool _isLeaving;                  // for a pair of devices that came up
    private bool _aborted;

    private struct Slot
    {
        internal ReadUnit Unit;
        internal SourceWork From;
        internal ulong Address;
        internal nint Destination;
        internal bool IsStaged;
        internal bool InFlight;
        internal UnitCheck Check;
    }

    internal LaneWorker(TransferRun run) => _run = run;

    /// <summary>Bytes that this lane brought, by transport; read after it has ended.</summary>
    internal Dictionary<string, long> BytesByTransport { get; } = [];

    /// <summary>And by pair of RDMA devices.</summary>
    internal Dictionary<string, long> BytesByPair { get; } = [];

    /// <summary>Whether it is on its way out because there are more lanes than wanted; under the lock of the run.</summary>
    internal bool IsRetired { get; set; }

    internal void Start()
    {
        var thread = new Thread(Run, _run.CallsLibrary ? StackBytesForLibrary : StackBytes) { IsBackground = true, Name = "checkpoint-engine lane" };
        thread.Start();
    }

    /// <summary>Ends its waits, now and later.</summary>
    internal void Abort()
    {
        lock (_abortLock)
        {
            _aborted = true;
            _lane?.Abort();
        }
    }

    private void Run()
    {
        try
        {
            do
            {
                while (_run.TakeOwner(this) is int owner)
                {
                    try
                    {
                        Serve(owner);
                    }
                    finally
                    {
                        _run.LeaveOwner(owner);
                    }
                }
            }
            while (_run.WaitForRoom(this, null));
        }
        catch (Exception failure)
        {
            _run.Fail(failure);
        }
        finally
        {
            _stagingRegistration?.Dispose();
            _staging?.Dispose();
            _run.Ended(this);
        }
    }

    private void Serve(int owner)
    {
        OwnerLink link = _run.Link(owner);
        if (link.TryCreateLane() is not IReadLane lane)
        {
            _run.Retire(this);      // every pair of devices has its lane
            return;
        }
        lock (_abortLock)
        {
            if (_aborted)
            {
                lane.Dispose();
                return;
            }
            _lane = lane;                         // before it connects, so that Abort ends that too
        }
        long bytes = 0;
        try
        {
            if (TryConnect(lane, owner, link))
            {
                bytes = Pump(lane, owner, link);
            }
        }
        finally
        {
            lock (_abortLock)
            {
                _lane = null;
            }
            _counts.Tell(lane);
            lane.Dispose();
            if (_isLeaving)
            {
                _isLeaving = false;
                link.Left();
            }
            if (bytes != 0)
            {
                BytesByTransport[lane.TransportName] = BytesByTransport.GetValueOrDefault(lane.TransportName) + bytes;
                if (lane is RdmaReadLane { PairName: var pair })
                {
                    BytesByPair[pair] = BytesByPair.GetValueOrDefault(pair) + bytes;
                }
            }
        }
    }

    private bool TryConnect(IReadLane lane, int owner, OwnerLink link)
    {
        try
        {
            lane.Connect();
            return true;
        }
        catch (CheckpointEngineException) when (IsAborted)
        {
            return false;
        }
        catch (CheckpointEngineException failure) when (link.FallsBackFrom(lane) || failure.Error is CheckpointError.Unreachable or CheckpointError.Timeout)
        {
            if (!link.FallsBackFrom(lane))
            {
                Broke(owner, failure);
            }
            return false;       // the next lane takes the next way
        }
    }

    private bool IsAborted
    {
        get
        {
            lock (_abortLock)
            {
                return _aborted;
            }
        }
    }

    private long Pump(IReadLane lane, int owner, OwnerLink link)
    {
        TransferPlan plan = _run.Plan;
        int mostInFlight = _run.MostBytesInFlight(owner);
        int inFlight = 0;
        long bytesInFlight = 0;
        long bytesDone = 0;
        while (true)
        {
            while (inFlight < Math.Min(lane.QueueDepth, MaxDepth) && bytesInFlight < Math.Min(lane.QueueBytes, mostInFlight) && !ShouldEnd(lane, owner, link) && _run.TryTake(owner, out ReadUnit unit, out SourceWork from, out ulong address))
            {
                int free = FreeSlot();
                nint destination = _run.Destination.AddressOf(unit);
                bool isStaged = destination == 0;
                if (isStaged && !lane.WritesInTurn && free >= MaxStaged)
                {
                    from.GiveBack(unit);
                    break;
                }
                if (isStaged && !TryStage(lane, lane.WritesInTurn ? 0 : free, link, out destination))
                {
                    from.GiveBack(unit);
                    GiveBackAll();
                    return bytesDone;
                }
                _slots[free] = new Slot { Unit = unit, From = from, Address = address, Destination = destination, IsStaged = isStaged, InFlight = true };
                inFlight++;
                bytesInFlight += unit.LengthBytes;
                lane.Submit(new ReadRequest(address, _slots[free].Destination, unit.LengthBytes, free));
            }
            if (inFlight == 0)
            {
                if (!_isLeaving && _run.WaitForRoom(this, owner))
                {
                    continue;
                }
                return bytesDone;
            }
            ReadCompletion completion;
            try
            {
                completion = lane.Wait(_run.Verifier is null ? null : this);
                if (completion.Status == ReadStatus.Done)
                {
                    TakeIn(ref _slots[completion.Tag], completion.Source);
                }
            }
            catch (CheckpointEngineException mismatch) when (_run.MayDoWithout(owner) && mismatch.Error == CheckpointError.DigestMismatch)
            {
                (lane as RdmaReadLane)?.Quiesce();
                GiveBackAll();
                _run.Lose(owner, new CheckpointEngineException(mismatch.Error, $"read from {link.Name}: {mismatch.Message}", 0, mismatch));
                return bytesDone;
            }
            ref Slot slot = ref _slots[completion.Tag];
            switch (completion.Status)
            {
                case ReadStatus.Done:
                    slot.InFlight = false;
                    inFlight--;
                    bytesInFlight -= slot.Unit.LengthBytes;
                    bytesDone += slot.Unit.LengthBytes;
                    _breaksInRow = 0;
                    slot.From.Completed(slot.Unit);
                    _run.Completed(owner, slot.Unit.LengthBytes);
                    _counts.Add(lane, slot.Unit.LengthBytes);
                    break;
                case ReadStatus.Refused:
                    GiveBackAll();
                    _run.Lose(owner, Refused(link, plan, slot));
                    return bytesDone;
                default:
                    GiveBackAll();
                    CheckpointEngineException loss = Lost(lane, link, plan, slot, completion.Status);
                    if (completion.Status == ReadStatus.Broken && link.FallsBackFrom(lane))
                    {
                        return bytesDone;   // the next lane takes the next plane
                    }
                    if (completion.Status == ReadStatus.Broken)
                    {
                        Broke(owner, loss);
                    }
                    else if (completion.Status != ReadStatus.Aborted)
                    {
                        _run.Lose(owner, loss);         // silence has lasted for the whole stall timeout, and nonsense does not heal
                    }
                    return bytesDone;
            }
        }
    }

    private bool ShouldEnd(IReadLane lane, int owner, OwnerLink link) => _isLeaving || _run.ShouldEnd(this) || !_run.IsLive(owner) || (_isLeaving = link.TryLeave(lane));

    // Counted by lane: one event of the network breaks all lanes of an owner at once, and is one event.
    private void Broke(int owner, CheckpointEngineException reason)
    {
        if (++_breaksInRow == MaxBreaksInRow)
        {
            _breaksInRow = 0;
            _run.Lose(owner, reason);
        }
        else
        {
            Thread.Sleep(s_retryPause);
        }
    }

    void IReadProgress.Arrived(int tag, int bytes)
    {
        ref Slot slot = ref _slots[tag];
        _run.Verifier!.Advance(ref slot.Check, slot.Unit, (byte*)slot.Destination, bytes);
    }

    private void TakeIn(ref Slot slot, nint source)
    {
        if (source != 0 && !slot.IsStaged)
        {
            if (_run.Verifier is DigestVerifier verifier)
            {
                verifier.Copy(slot.Unit, (byte*)source, (byte*)slot.Destination);
            }
            else
            {
                StreamingCopy.Copy((byte*)source, (byte*)slot.Destination, slot.Unit.LengthBytes);
            }
        }
        else
        {
            nint at = source != 0 ? source : slot.Destination;
            _run.Verifier?.Advance(ref slot.Check, slot.Unit, (byte*)at, slot.Unit.LengthBytes);
            if (slot.IsStaged)
            {
                _run.Destination.Write(slot.Unit, new ReadOnlySpan<byte>((void*)at, slot.Unit.LengthBytes));
            }
        }
        _run.Destination.Completed(slot.Unit);
    }

    private void GiveBackAll()
    {
        for (int i = 0; i < _slots.Length; i++)
        {
            if (_slots[i].InFlight)
            {
                _slots[i].InFlight = false;
                _slots[i].From.GiveBack(_slots[i].Unit);
                _run.GaveBack(_slots[i].Unit.LengthBytes);
            }
        }
        _run.RoomCame();            // another lane may sleep for want of just these
    }

    private int FreeSlot()
    {
        for (int i = 0; i < _slots.Length; i++)
        {
            if (!_slots[i].InFlight)
            {
                return i;
            }
        }
        throw new InvalidOperationException("more requests in flight than slots");
    }

    private bool TryStage(IReadLane lane, int slot, OwnerLink link, out nint place)
    {
        try
        {
            place = Staging(lane, slot);
            return true;
        }
        catch (CheckpointEngineException reason) when (lane is RdmaReadLane rdma)
        {
            rdma.Quiesce();
            link.LeaveRdma(reason);      // throws when there is no other way
            place = 0;
            return false;
        }
    }

    // Pages that are not asked for are not there.
    private nint Staging(IReadLane lane, int slot)
    {
        _staging ??= MemoryBuffer.AllocateAnonymous((long)MaxStaged * TensorDigest.ChunkBytes);
        _stagingRegistration ??= lane.Prepare(_staging.Address, _staging.LengthBytes);
        return _staging.Address + (nint)slot * TensorDigest.ChunkBytes;
    }

    private static CheckpointEngineException Refused(OwnerLink link, TransferPlan plan, in Slot slot) => new(CheckpointError.Refused,
        $"read {Describe(plan, slot)} from {link.Name}: it refuses that range; it no longer holds this checkpoint there, or demands a token: fetch the metas anew");

    private static CheckpointEngineException Lost(IReadLane lane, OwnerLink link, TransferPlan plan, in Slot slot, ReadStatus status)
    {
        (CheckpointError error, string reason) = status switch
        {
            ReadStatus.Stalled => (CheckpointError.Timeout, "it sends nothing any more"),
            ReadStatus.Garbled => (CheckpointError.ProtocolViolation, "it answers something that is no status"),
            _ => (CheckpointError.Unreachable, (lane is LocalReadLane ? link.Local?.Failure : (lane as RdmaReadLane)?.Failure) ?? (lane as MooncakeReadLane)?.Failure ?? "the connection broke"),
        };
        return new CheckpointEngineException(error, $"read {Describe(plan, slot)} from {link.Name}: {reason}; check that the owner still runs, then join again");
    }

    private static string Describe(TransferPlan plan, in Slot slot)
        => $"{slot.Unit.LengthBytes:N0} bytes at 0x{slot.Address:x} (tensor '{plan.Tensors.GetName(slot.Unit.FirstTensor)}')";
}
