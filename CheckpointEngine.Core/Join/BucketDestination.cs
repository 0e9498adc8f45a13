using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>
/// Two pieces of memory that take turns: while the consumer has one bucket, the lanes fill the next. A bucket is handed out when all its bytes are here
/// and compared with their owners' digests.
/// </summary>
/// <remarks>The consumer's thread is its own; a bucket allocates nothing.</remarks>
internal sealed class BucketDestination : IJoinDestination
{
    private const int Pieces = 2;

    private readonly BucketPlan _plan;
    private readonly MemoryBuffer[] _memory;
    private readonly BucketHandler _handler;
    private readonly DigestVerifier? _verifier;
    private readonly bool _requireVerify;
    private readonly int[] _unitsLeft;
    private readonly object _gate = new();
    private readonly TaskCompletionSource _consumed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private TransferRun? _run;
    private Task _fetch = Task.CompletedTask;
    private int _done;             // buckets that were consumed
    private bool _stopped;

    internal BucketDestination(BucketPlan plan, BucketHandler handler, DigestVerifier? verifier, bool requireVerify)
    {
        _plan = plan;
        _handler = handler;
        _verifier = verifier;
        _requireVerify = requireVerify;
        _unitsLeft = new int[plan.Count];
        for (int bucket = 0; bucket < plan.Count; bucket++)
        {
            _unitsLeft[bucket] = plan.UnitsOf(bucket);
        }
        long bytes = Math.Max(1, plan.LargestBytes);
        HostMemory.ThrowIfBeyond(bytes * Pieces, "the buckets of a join");
        _memory = new MemoryBuffer[Math.Min(Pieces, Math.Max(1, plan.Count))];
        try
        {
            for (int piece = 0; piece < _memory.Length; piece++)
            {
                _memory[piece] = MemoryBuffer.AllocateAnonymous(bytes);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Buckets that were consumed.</summary>
    internal int Done => Volatile.Read(ref _done);

    /// <summary>Starts the consumer.</summary>
    /// <param name="run">The run that fills the buckets; it is failed when the handler throws.</param>
    /// <param name="fetch">The fetching of digests: while it goes on, more may come.</param>
    /// <returns>Ends when no handler runs and none will; never fails.</returns>
    internal Task Start(TransferRun run, Task fetch)
    {
        _run = run;
        _fetch = fetch;
        if (_verifier is not null)
        {
            _verifier.ExpectedCame += Wake;
            _ = fetch.ContinueWith(static (_, state) => ((BucketDestination)state!).Wake(), this, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        }
        new Thread(Consume) { IsBackground = true, Name = "checkpoint-engine buckets" }.Start();
        return _consumed.Task;
    }

    /// <summary>Hands out no further bucket; one that is being consumed is waited for by <see cref="Start"/>'s task.</summary>
    internal void Stop()
    {
        lock (_gate)
        {
            _stopped = true;
            Monitor.PulseAll(_gate);
        }
    }

    public IEnumerable<(nint Address, long LengthBytes)> Regions => _memory.Select(static memory => (memory.Address, memory.LengthBytes));

    public nint AddressOf(in ReadUnit unit) => _memory[_plan.BucketOf(unit) % Pieces].Address + (nint)_plan.OffsetOf(unit);

    public void Write(in ReadUnit unit, ReadOnlySpan<byte> bytes) => throw new InvalidOperationException("bytes are received in place");

    public bool HasRoom(in ReadUnit unit) => _plan.BucketOf(unit) < Volatile.Read(ref _done) + Pieces;

    public void Completed(in ReadUnit unit)
    {
        if (Interlocked.Decrement(ref _unitsLeft[_plan.BucketOf(unit)]) == 0)
        {
            Wake();
        }
    }

    public void Dispose()
    {
        foreach (MemoryBuffer? memory in _memory)
        {
            memory?.Dispose();
        }
    }

    private void Wake()
    {
        lock (_gate)
        {
            Monitor.PulseAll(_gate);
        }
    }

    private void Consume()
    {
        try
        {
            var bucket = new JoinBucket(_plan.Plan.Tensors, _plan.Count, _plan.MostTensors);
            while (_done < _plan.Count && WaitForBucket(_done))
            {
                nint address = _memory[_done % Pieces].Address;
                bucket.Begin(_done, address, _plan.SizeOf(_done));
                foreach (BucketPlan.Entry entry in _plan.TensorsOf(_done))
                {
                    bucket.Add(entry.Tensor, address + (nint)entry.Offset);
                }
                _handler(bucket);
                Volatile.Write(ref _done, _done + 1);
                _run!.RoomCame();
            }
        }
        catch (Exception failure)
        {
            _run!.Fail(failure);
        }
        finally
        {
            _consumed.SetResult();
        }
    }

    // False when the join has failed.
    private bool WaitForBucket(int bucket)
    {
        lock (_gate)
        {
            while (true)
            {
                if (_stopped || _run!.HasFailed)      // who cancels from inside one bucket does not get the next
                {
                    return false;
                }
                if (Volatile.Read(ref _unitsLeft[bucket]) == 0)
                {
                    bool noneToCome = _fetch.IsCompleted;      // before looking, or the last digests could come in between
                    if (_verifier is null || AllChecked(bucket))
                    {
                        return true;
                    }
                    if (noneToCome)
                    {
                        return !_requireVerify || ThrowHelper.Throw<bool>(CheckpointError.DigestMismatch,
                            $"join: bucket {bucket:N0} could not be checked ({DigestVerifier.NoDigests}), and checks are required; nothing of it was handed out");
                    }
                }
                Monitor.Wait(_gate);
            }
        }
    }

    private bool AllChecked(int bucket)
    {
        bool all = true;
        foreach (BucketPlan.Entry entry in _plan.TensorsOf(bucket))
        {
            all &= _verifier!.IsChecked(entry.Owner, entry.Tensor);
        }
        return all;
    }
}
