using System.Diagnostics;
using CheckpointEngine.Internal;
using CheckpointEngine.Planning;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Join;

/// <summary>
/// Moves the bytes of a plan: lanes on threads of their own take units from the owner that has the most left for each of its lanes, until nothing is
/// left. Adds lanes while that helps.
/// </summary>
/// <remarks>Made for one run. The first error stops every lane and is what <see cref="RunAsync"/> throws.</remarks>
internal sealed partial class TransferRun
{
    // More threads than this cost more in switching than another connection could bring, on any host seen.
    private const int MaxLanes = 64;

    // For an owner that is read through Mooncake's library, or beside others that are read over RDMA: one hashes while the other's reads come.
    private const int LanesBesideRdma = 2;

    private static readonly TimeSpan s_tick = TimeSpan.FromMilliseconds(50);

    // When there is nobody to tell and no count to find out: a lane that was lost is made up for, and readers of the same host that came or went are heeded.
    private static readonly TimeSpan s_idleTick = TimeSpan.FromMilliseconds(250);

    private readonly TransferPlan _plan;
    private readonly OwnerLink?[] _links;               // as the works
    private readonly SourceWork?[] _works;              // by owner, then by relay
    private readonly IJoinDestination _destination;
    private readonly DigestVerifier? _verifier;
    private readonly OwnerReplicas? _replicas;
    private readonly int _fixedLanes;
    private readonly bool _followsDevices;     // as many lanes as RDMA devices are good for, which come and go
    private readonly long _totalBytes;
    private readonly long _presentBytes;       // there from the start: attached to, or taken from a seed
    private readonly Lock _lock = new();
    private readonly object _room = new();
    private readonly HashSet<LaneWorker> _workers = [];
    private readonly TaskCompletionSource _done = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly PaddedCounter _bytesDone = new();
    private readonly PaddedCounter _bytesLost = new();
    private readonly PaddedCounter _bytesRelayed = new();
    private readonly int _owners;
    private readonly TaskCompletionSource?[] _relayLeft;
    private readonly Exception?[] _relayGone;          // why a relay is read no more; by its place behind the owners
    private Exception? _failure;
    private int _targetLanes;
    private int _activeWorkers;        // those that are not retiring
    private bool _stopping;

    internal TransferRun(TransferPlan plan, OwnerLink?[] links, IJoinDestination destination, DigestVerifier? verifier, int lanesPerOwner, Predicate<int> isRead, ReadUnit[]?[]? left = null, OwnerReplicas? replicas = null, SwarmWork?[]? swarms = null)
    {
        _replicas = replicas;
        _plan = plan;
        _owners = links.Length;
        int relays = swarms is null ? 0 : SwarmAsker.MostRelays * swarms.Count(static swarm => swarm is not null);
        _links = [.. links, .. new OwnerLink?[relays]];
        _relayGone = new Exception?[relays];
        _relayLeft = new TaskCompletionSource?[relays];
        _destination = destination;
        _verifier = verifier;
        _works = new SourceWork?[_links.Length];
        int owners = 0;
        for (int owner = 0; owner < links.Length; owner++)
        {
            if (links[owner] is not null && !isRead(owner))
            {
                _presentBytes += plan.OwnerBytes[owner];
            }
            else if (links[owner] is not null)
            {
                _works[owner] = swarms?[owner] is SwarmWork swarm ? swarm : new OwnerWork(plan, owner, destination, left?[owner], replicas is null ? null : verifier);
                _totalBytes += _works[owner]!.RemainingBytes;
                _presentBytes += left is null && swarms?[owner] is null ? 0 : Math.Max(0, plan.OwnerBytes[owner] - _works[owner]!.RemainingBytes);
                owners++;
            }
        }
        _fixedLanes = Math.Min(MaxLanes, lanesPerOwner * owners);
        CallsLibrary = Array.Exists(links, link => link is { Mooncake: not null });
        if (lanesPerOwner == 0 && (CallsLibrary || Array.Exists(links, link => link is { Rdma: not null })))
        {
            _followsDevices = !CallsLibrary;
            _fixedLanes = LanesOfDevices();
        }
    }

    private int LanesOfDevices()
    {
        int lanes = 0;
        for (int owner = 0; owner < _links.Length; owner++)
        {
            lanes += _works[owner] is null ? 0 : _links[owner]!.Rdma?.Preferred ?? LanesBesideRdma;
        }
        return Math.Min(MaxLanes, lanes);
    }

    /// <summary>Whether lanes call into Mooncake's library.</summary>
    internal bool CallsLibrary { get; }

    internal TransferPlan Plan => _plan;

    internal IJoinDestination Destination => _destination;

    internal DigestVerifier? Verifier => _verifier;

    /// <summary>Whether it was cancelled or something went wrong; from the return of <see cref="Fail"/> on.</summary>
    internal bool HasFailed => Volatile.Read(ref _stopping);

    /// <summary>Bytes that arrived by transport.</summary>
    internal Dictionary<string, long> BytesByTransport { get; } = [];

    /// <summary>Bytes that arrived by pair of RDMA devices.</summary>
    internal Dictionary<string, long> BytesByPair { get; } = [];

    /// <summary>Runs to the end.</summary>
    /// <param name="consumed">Ends when what was read has been consumed, and never fails: a consumer that fails calls <see cref="Fail"/>.</param>
    /// <param name="progress">Told about twenty times a second.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException">The first thing that went wrong.</exception>
    /// <exception cref="OperationCanceledException">Cancelled; every lane has ended and nobody writes to the destination any more.</exception>
    internal async Task RunAsync(Task consumed, IProgress<JoinProgress>? progress, CancellationToken cancellationToken)
    {
        var lanes = new LaneCountController(_links[.._owners], _fixedLanes, MaxLanes);
        using (cancellationToken.UnsafeRegister(static state => ((TransferRun)state!).Fail(new OperationCanceledException()), this))
        {
            try
            {
                long start = Stopwatch.GetTimestamp();
                progress?.Report(new JoinProgress(_presentBytes, _plan.DataBytes, lanes.Initial, "transfer"));      // before the first byte, so that who consumes it knows of how many
                SetTarget(lanes.Initial);
                Task all = Task.WhenAll(_done.Task, consumed);
                TimeSpan tick = progress is null && lanes.IsFixed && _relayGone.Length == 0 ? s_idleTick : s_tick;
                while (!all.IsCompleted && _failure is null)
                {
                    await Task.WhenAny(_done.Task.IsCompleted ? all : _done.Task, Task.Delay(tick, CancellationToken.None)).ConfigureAwait(false);
                    long done = _bytesDone.Value;
                    progress?.Report(new JoinProgress(Math.Min(_presentBytes + done, _plan.DataBytes), _plan.DataBytes, _targetLanes, "transfer"));
                    if (!_done.Task.IsCompleted)
                    {
                        SetTarget(_followsDevices ? LanesOfDevices() : Math.Min(MaxLanes, lanes.Next(done, Stopwatch.GetElapsedTime(start), LaneCountController.Readers(_links)) + LiveRelays));
                    }
                }
                await _done.Task.ConfigureAwait(false);
            }
            catch (Exception failure)
            {
                // A progress report that throws, a thread that cannot be had: the destination may go only when no lane writes to it any more.
                Fail(failure);
                await _done.Task.ConfigureAwait(false);
            }
        }
        cancellationToken.ThrowIfCancellationRequested();
        if (_failure is not null)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(_failure);
        }
    }

    internal OwnerLink Link(int owner) => _links[owner]!;

    /// <summary>Ends a lane's service for an owner.</summary>
    internal void LeaveOwner(int owner)
    {
        lock (_lock)
        {
            _works[owner]!.Lanes--;
            if (owner >= _owners)
            {
                RemoveIfLeft(owner - _owners);
            }
        }
        if (owner >= _owners)
        {
            RoomCame();         // a relay has few lanes, and others may wait to be one
        }
    }

    /// <summary>Lets a lane's thread end that has found nothing to be a lane of.</summary>
    internal void Retire(LaneWorker worker)
    {
        lock (_lock)
        {
            if (!worker.IsRetired)
            {
                worker.IsRetired = true;
                _activeWorkers--;
            }
        }
    }

    /// <summary>Whether a lane should end, between two units: all of them stop, or there is one more than wanted and this is the one to go.</summary>
    internal bool ShouldEnd(LaneWorker worker)
    {
        if (!_stopping && !worker.IsRetired && Volatile.Read(ref _activeWorkers) <= Volatile.Read(ref _targetLanes))
        {
            return false;
        }
        lock (_lock)
        {
            if (!worker.IsRetired && _activeWorkers > _targetLanes)
            {
                worker.IsRetired = true;
                _activeWorkers--;
            }
            return _stopping || worker.IsRetired;
        }
    }

    /// <summary>Waits while there is work but no room for it.</summary>
    /// <param name="worker">The lane that waits.</param>
    /// <param name="own">The owner that it is connected to; null when it serves none.</param>
    /// <returns>True: there is a unit to take, from <paramref name="own"/> if that is given. False: it should leave that owner, or end.</returns>
    internal bool WaitForRoom(LaneWorker worker, int? own)
    {
        lock (_room)
        {
            while (!ShouldEnd(worker))
            {
                if (own is int owner && !IsLive(owner))
                {
                    return false;
                }
                bool ownHas = own is int served && HasUnitFor(served);
                if (ownHas || (own is not >= 0 || own < _owners) && HasUnitToTake())
                {
                    return own is null || ownHas;
                }
                if (!Array.Exists(_works, work => work is { RemainingBytes: > 0 }))
                {
                    return false;
                }
                Monitor.Wait(_room);
            }
            return false;
        }
    }

    /// <summary>Lets lanes look again whether there is room.</summary>
    internal void RoomCame()
    {
        lock (_room)
        {
            Monitor.PulseAll(_room);
        }
    }

    /// <summary>Bytes that were asked for and did not come.</summary>
    internal long LostBytes => _bytesLost.Value;

    /// <summary>Counts a unit that was asked for, and will be asked for again.</summary>
    internal void GaveBack(int bytes) => _bytesLost.Add(bytes);

    /// <summary>Counts a unit that is in its place.</summary>
    internal void Completed(int owner, int bytes)
    {
        _bytesDone.Add(bytes);
        if (owner >= _owners)
        {
            _bytesRelayed.Add(bytes);
        }
    }

    /// <summary>Stops every lane because of <paramref name="reason"/>, the first of which counts.</summary>
    internal void Fail(Exception reason)
    {
        LaneWorker[] workers;
        lock (_lock)
        {
            _failure ??= reason;
            _stopping = true;
            workers = [.. _workers];
        }
        foreach (LaneWorker worker in workers)
        {
            worker.Abort();
        }
        RoomCame();
        if (workers.Length == 0)
        {
            _done.TrySetResult();
        }
    }

    /// <summary>Called by a lane's thread as the last thing it does.</summary>
    internal void Ended(LaneWorker worker)
    {
        lock (_lock)
        {
            _workers.Remove(worker);
            _activeWorkers -= worker.IsRetired ? 0 : 1;
            foreach ((string transport, long bytes) in worker.BytesByTransport)
            {
                BytesByTransport[transport] = BytesByTransport.GetValueOrDefault(transport) + bytes;
            }
            foreach ((string pair, long bytes) in worker.BytesByPair)
            {
                BytesByPair[pair] = BytesByPair.GetValueOrDefault(pair) + bytes;
            }
            if (_workers.Count != 0)
            {
                return;
            }
            if (!_stopping && Array.Exists(_works, work => work is { RemainingBytes: > 0 }))
            {
                try
                {
                    StartWorker();      // the last lane gave a unit back as it left
                    return;
                }
                catch (Exception failure)
                {
                    _failure ??= failure;
                    _stopping = true;
                }
            }
        }
        _done.TrySetResult();
    }

    private void SetTarget(int lanes)
    {
        lock (_lock)
        {
            _targetLanes = lanes;
            if (_totalBytes == 0)
            {
                _done.TrySetResult();
                return;
            }
            while (!_stopping && !_done.Task.IsCompleted && _activeWorkers < lanes && HasWorkForAnother())
            {
                StartWorker();
            }
        }
    }

    private void StartWorker()
    {
        var worker = new LaneWorker(this);
        worker.Start();             // it comes to the lock first of all, and finds itself counted
        _workers.Add(worker);
        _activeWorkers++;
    }
}
