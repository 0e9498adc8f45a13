using System.Runtime.ExceptionServices;

namespace CheckpointEngine.Inference;

/// <summary>Starts the copies of an update, on a thread of its own: each bucket's as soon as its tensors are here and workers have loaded the one that was in its half before.</summary>
/// <remarks>
/// So workers are never kept waiting for a bucket that is there by one that is still to come, and who exchanges messages with them sees at once when they go.
/// One thread beside its own. Dispose ends it; what it has started is the buffers'.
/// </remarks>
internal sealed class BucketFeeder : IDisposable
{
    private const int Halves = 2;

    private readonly UpdateSource _source;
    private readonly BucketLayout _layout;
    private readonly IReadOnlyList<IUpdateBuffer> _buffers;
    private readonly CancellationTokenSource _stop;
    private readonly UpdatePiece[][] _pieces = [[], []];        // of a half each
    private readonly object _lock = new();
    private readonly Thread _thread;
    private int _begun;
    private int _loaded;
    private bool _ended;
    private Exception? _failure;

    /// <param name="source">Where bytes come from.</param>
    /// <param name="layout">The buckets.</param>
    /// <param name="buffers">Where they go.</param>
    /// <param name="cancellationToken">Ends it.</param>
    internal BucketFeeder(UpdateSource source, BucketLayout layout, IReadOnlyList<IUpdateBuffer> buffers, CancellationToken cancellationToken)
    {
        _source = source;
        _layout = layout;
        _buffers = buffers;
        _stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        _thread = new Thread(Work) { IsBackground = true, Name = "checkpoint-engine update feed" };
        _thread.Start();
    }

    /// <summary>Waits until a bucket's copy has begun.</summary>
    /// <param name="bucket">Which.</param>
    /// <param name="milliseconds">How long at most.</param>
    /// <returns>Whether it has.</returns>
    /// <exception cref="CheckpointEngineException">Its tensors will not come.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    internal bool WaitBegun(int bucket, int milliseconds) => Wait(bucket + 1, wantsEnd: false, milliseconds);

    /// <summary>Waits until it is certain that all tensors together are what was asked for; otherwise as <see cref="WaitBegun"/>.</summary>
    internal bool WaitEnded(int milliseconds) => Wait(_layout.Count, wantsEnd: true, milliseconds);

    /// <summary>Tells that workers have loaded one more bucket: its half is free.</summary>
    internal void Loaded()
    {
        lock (_lock)
        {
            _loaded++;
            Monitor.PulseAll(_lock);
        }
    }

    public void Dispose()
    {
        _stop.Cancel();
        lock (_lock)
        {
            Monitor.PulseAll(_lock);
        }
        _thread.Join();
        _stop.Dispose();
    }

    private bool Wait(int begun, bool wantsEnd, int milliseconds)
    {
        lock (_lock)
        {
            if ((_begun < begun || (wantsEnd && !_ended)) && _failure is null)
            {
                Monitor.Wait(_lock, milliseconds);
            }
            bool isThere = _begun >= begun && (_ended || !wantsEnd);
            if (!isThere && _failure is not null)
            {
                ExceptionDispatchInfo.Throw(_failure);
            }
            return isThere;
        }
    }

    private void Work()
    {
        try
        {
            for (int bucket = 0; bucket < _layout.Count; bucket++)
            {
                WaitForHalf(bucket);
                Begin(bucket);
                lock (_lock)
                {
                    _begun = bucket + 1;
                    Monitor.PulseAll(_lock);
                }
            }
            _source.Readiness.WaitForEnd(_stop.Token);
            lock (_lock)
            {
                _ended = true;
                Monitor.PulseAll(_lock);
            }
        }
        catch (Exception failure)
        {
            lock (_lock)
            {
                _failure = failure;         // who waits throws it
                Monitor.PulseAll(_lock);
            }
        }
    }

    private void WaitForHalf(int bucket)
    {
        lock (_lock)
        {
            while (_loaded + Halves <= bucket)
            {
                _stop.Token.ThrowIfCancellationRequested();
                Monitor.Wait(_lock);
            }
        }
    }

    private void Begin(int bucket)
    {
        int first = _layout.FirstTensor(bucket);
        int count = _layout.TensorCount(bucket);
        _source.Readiness.Wait(first, count, _stop.Token);
        int half = bucket % Halves;
        if (_pieces[half].Length < count)
        {
            _pieces[half] = new UpdatePiece[Math.Max(count, Math.Min(_source.Tensors.Count, 2 * _pieces[half].Length))];
        }
        int pieces = 0;
        for (int tensor = first; tensor < first + count; tensor++)
        {
            if (_source.Tensors.GetByteLength(tensor) is > 0 and long bytes)
            {
                _pieces[half][pieces++] = new UpdatePiece(_source.AddressOf(tensor), _layout.OffsetOf(tensor), bytes);
            }
        }
        foreach (IUpdateBuffer buffer in _buffers)
        {
            buffer.BeginCopy(half, _pieces[half].AsMemory(0, pieces));
        }
    }
}
