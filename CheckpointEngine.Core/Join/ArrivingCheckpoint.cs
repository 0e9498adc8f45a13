using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;
using CheckpointEngine.Internal;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>A checkpoint that a join is bringing into memory, for who takes tensors as they come: each once all of it is here and was compared with its owner's digest.</summary>
/// <remarks>Any number of threads. Its memory stays until it is disposed of, however the join ends.</remarks>
internal sealed class ArrivingCheckpoint : IUpdateReadiness, IDisposable
{
    private readonly TransferPlan _plan;
    private readonly MemoryBuffer[] _buffers;
    private readonly DigestVerifier? _verifier;
    private readonly long[] _missingBytes;          // per tensor
    private readonly object _gate = new();
    private Task _fetch = Task.CompletedTask;
    private Exception? _failure;
    private bool _ended;
    private int _disposed;

    /// <param name="plan">The plan.</param>
    /// <param name="buffers">The memory of each buffer of the plan, as it is laid out there.</param>
    /// <param name="verifier">What compares; null when nothing is to be compared.</param>
    internal ArrivingCheckpoint(TransferPlan plan, MemoryBuffer[] buffers, DigestVerifier? verifier)
    {
        _plan = plan;
        _buffers = buffers;
        _verifier = verifier;
        _missingBytes = new long[plan.Tensors.Count];
        for (int tensor = 0; tensor < _missingBytes.Length; tensor++)
        {
            _missingBytes[tensor] = plan.Tensors.GetByteLength(tensor);
        }
        foreach (MemoryBuffer buffer in buffers)
        {
            bool held = false;
            buffer.Region.DangerousAddRef(ref held);
        }
    }

    /// <summary>Its tensors.</summary>
    internal TensorTable Tensors => _plan.Tensors;

    /// <summary>Where a tensor's first byte is, or will be.</summary>
    internal nint AddressOf(int tensor)
    {
        int buffer = BufferOf(tensor);
        return _buffers[buffer].Region.DangerousGetHandle() + (nint)_plan.Tensors.GetOffset(tensor);
    }

    /// <summary>Tells that bytes begin to come.</summary>
    /// <param name="fetch">The fetching of digests: while it goes on, more may come.</param>
    internal void Begin(Task fetch)
    {
        _fetch = fetch;
        if (_verifier is not null)
        {
            _verifier.ExpectedCame += Wake;
            _ = fetch.ContinueWith(static (_, state) => ((ArrivingCheckpoint)state!).Wake(), this, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        }
    }

    /// <summary>Counts a unit that is in its place.</summary>
    internal void Completed(in ReadUnit unit)
    {
        ref readonly ReadRange range = ref _plan.Ranges[unit.Range];
        TensorTable tensors = _plan.Tensors;
        long unitStart = range.DestinationOffset + unit.OffsetInRange;
        long unitEnd = unitStart + unit.LengthBytes;
        bool isWhole = false;
        for (int tensor = unit.FirstTensor; tensor < range.FirstTensor + range.TensorCount && tensors.GetOffset(tensor) < unitEnd; tensor++)
        {
            long bytes = Math.Min(unitEnd, tensors.GetOffset(tensor) + tensors.GetByteLength(tensor)) - Math.Max(unitStart, tensors.GetOffset(tensor));
            isWhole |= bytes > 0 && Interlocked.Add(ref _missingBytes[tensor], -bytes) == 0;
        }
        if (isWhole)
        {
            Wake();
        }
    }

    /// <summary>Tells that the join has ended, well or with <paramref name="failure"/>; the first word counts.</summary>
    internal void End(Exception? failure)
    {
        lock (_gate)
        {
            if (!_ended)
            {
                _ended = true;
                _failure = failure;
            }
            Monitor.PulseAll(_gate);
        }
    }

    public void Wait(int firstTensor, int count, CancellationToken cancellationToken)
    {
        using CancellationTokenRegistration wake = cancellationToken.Register(static state => ((ArrivingCheckpoint)state!).Wake(), this);
        lock (_gate)
        {
            for (int tensor = firstTensor; tensor < firstTensor + count;)
            {
                ThrowIfEnded(cancellationToken);
                bool noneToCome = _fetch.IsCompleted;       // before looking, or the last digests could come in between
                if (Volatile.Read(ref _missingBytes[tensor]) == 0)
                {
                    if (_verifier is null || _verifier.IsChecked(_plan.Buffers[BufferOf(tensor)].Owner, tensor))
                    {
                        tensor++;
                        continue;
                    }
                    if (noneToCome)
                    {
                        ThrowHelper.Throw(CheckpointError.DigestMismatch,
                            $"tensor {TensorNames.Quote(_plan.Tensors, tensor)} could not be checked ({DigestVerifier.NoDigests}), and an inference server is handed only what was; --no-verify hands it on unchecked");
                    }
                }
                Monitor.Wait(_gate);
            }
        }
    }

    public void WaitForEnd(CancellationToken cancellationToken)
    {
        using CancellationTokenRegistration wake = cancellationToken.Register(static state => ((ArrivingCheckpoint)state!).Wake(), this);
        lock (_gate)
        {
            while (!_ended)
            {
                ThrowIfEnded(cancellationToken);
                Monitor.Wait(_gate);
            }
            ThrowIfEnded(cancellationToken);
        }
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
        {
            foreach (MemoryBuffer buffer in _buffers)
            {
                buffer.Region.DangerousRelease();
            }
        }
    }

    private void ThrowIfEnded(CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        if (_failure is not null)
        {
            throw new CheckpointEngineException((_failure as CheckpointEngineException)?.Error ?? CheckpointError.Superseded, $"the join that brings it failed: {_failure.Message}", 0, _failure);
        }
    }

    private int BufferOf(int tensor)
    {
        int low = 0, high = _plan.Buffers.Length - 1;
        while (low < high)
        {
            int middle = (int)((uint)(low + high) >> 1);
            PlannedBuffer planned = _plan.Buffers[middle];
            if (planned.FirstTensor + planned.TensorCount > tensor)
            {
                high = middle;
            }
            else
            {
                low = middle + 1;
            }
        }
        return low;
    }

    private void Wake()
    {
        lock (_gate)
        {
            Monitor.PulseAll(_gate);
        }
    }
}
