using System.Diagnostics;

namespace CheckpointEngine.Inference;

/// <summary>A few threads that put buckets together: of two that are begun the second follows the first without a pause.</summary>
/// <remarks>
/// Any thread begins and waits, one copy of a half at a time. Between copies the threads sleep; a copy allocates nothing. Whoever derives from it calls
/// <see cref="Start"/> once it can be copied to, and <see cref="Stop"/> before that ends.
/// </remarks>
internal abstract unsafe class CopyCrew : IDisposable
{
    // A server's workers want cores, too.
    private const int CoresLeft = 2;
    private const int FewCores = 4;

    private readonly object _lock = new();
    private readonly Thread[] _threads;
    private readonly long _stepBytes;
    private readonly Copy[] _copies = [new Copy(0), new Copy(1)];
    private Copy? _current;                 // whose steps are given out, under the lock
    private Copy? _following;
    private long _lastEnded;
    private volatile Exception? _failure;
    private volatile bool _stop;

    /// <param name="most">The most threads; on hosts of few cores there are fewer.</param>
    /// <param name="stepBytes">What a thread takes at a time.</param>
    protected CopyCrew(int most, long stepBytes)
    {
        _threads = new Thread[Math.Min(most, Environment.ProcessorCount <= FewCores ? Environment.ProcessorCount : Environment.ProcessorCount - CoresLeft)];
        _stepBytes = stepBytes;
    }

    /// <summary>Whether what waits should not wait any longer.</summary>
    protected bool IsOver => _stop || _failure is not null;

    /// <summary>Starts a copy; the one before of this half has been waited for.</summary>
    /// <param name="half">0 or 1.</param>
    /// <param name="pieces">Offsets ascend. Valid until <see cref="Wait"/> returns.</param>
    /// <param name="destination">Where offset 0 goes.</param>
    internal void Begin(int half, ReadOnlyMemory<UpdatePiece> pieces, nint destination)
    {
        Copy copy = _copies[half];
        Debug.Assert(copy.Done.IsSet, "one copy of a half at a time");
        copy.Pieces = pieces;
        copy.Destination = destination;
        copy.Bytes = pieces.IsEmpty ? 0 : pieces.Span[^1].Offset + pieces.Span[^1].Bytes;
        copy.Started = Stopwatch.GetTimestamp();
        copy.Given = 0;
        copy.Left = copy.Steps = (copy.Bytes + _stepBytes - 1) / _stepBytes;
        copy.Done.Reset();
        if (copy.Steps == 0)
        {
            End(copy);
            return;
        }
        lock (_lock)
        {
            Begun(copy);
            if (_current is null)
            {
                _current = copy;
            }
            else
            {
                _following = copy;
            }
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Waits for the end of a copy; one thread at a time, in the order of the copies.</summary>
    /// <returns>Seconds that it took, from its start or from the end of the one before it.</returns>
    /// <exception cref="CheckpointEngineException">What kept a thread from it.</exception>
    internal double Wait(int half)
    {
        Copy copy = _copies[half];
        copy.Done.Wait();
        if (_failure is { } failure)
        {
            throw new CheckpointEngineException((failure as CheckpointEngineException)?.Error ?? CheckpointError.Native, failure.Message,
                (failure as CheckpointEngineException)?.NativeCode ?? 0, failure);
        }
        // The following one may end first: the last step of this one was still in a thread's hands.
        long start = Math.Max(copy.Started, _lastEnded);
        _lastEnded = Math.Max(_lastEnded, copy.Ended);
        return Stopwatch.GetElapsedTime(start, _lastEnded).TotalSeconds;
    }

    /// <summary>Ends the threads, once what they have in hand is copied.</summary>
    public abstract void Dispose();

    /// <summary>Starts the threads.</summary>
    protected void Start()
    {
        for (int i = 0; i < _threads.Length; i++)
        {
            var thread = new Thread(Work) { IsBackground = true, Name = "checkpoint-engine update copy" };
            thread.Start();
            _threads[i] = thread;
        }
    }

    /// <summary>Ends the threads; again it does nothing.</summary>
    protected void Stop()
    {
        lock (_lock)
        {
            _stop = true;
            Monitor.PulseAll(_lock);
        }
        foreach (Thread? thread in _threads)
        {
            thread?.Join();
        }
        Array.ForEach(_copies, static copy => copy.Dispose());
    }

    /// <summary>Called in each thread before its first copy.</summary>
    protected virtual void Enter()
    {
    }

    /// <summary>Called in the order of the copies, before the first step of one.</summary>
    protected virtual void Begun(Copy copy)
    {
    }

    /// <summary>Where the bytes of a step from an offset on go to; may wait.</summary>
    protected abstract byte* RoomFor(Copy copy, long offset);

    /// <summary>Copies.</summary>
    protected abstract void CopyBytes(byte* source, byte* destination, long bytes);

    /// <summary>Called when a step is in its room.</summary>
    protected virtual void Filled(Copy copy, long offset)
    {
    }

    /// <summary>Called once all steps of a copy are, or none more will be.</summary>
    protected virtual void Ended(Copy copy, Exception? failure)
    {
    }

    private void Work()
    {
        try
        {
            Enter();
        }
        catch (Exception failure)
        {
            _failure ??= failure;           // Wait throws it
        }
        while (TryTake(out Copy copy, out long offset))
        {
            try
            {
                if (!IsOver)
                {
                    Gather(copy.Pieces.Span, offset, Math.Min(offset + _stepBytes, copy.Bytes), RoomFor(copy, offset));
                    Filled(copy, offset);
                }
            }
            catch (Exception failure)
            {
                _failure ??= failure;       // likewise
            }
            if (Interlocked.Decrement(ref copy.Left) == 0)
            {
                End(copy);
            }
        }
    }

    private void End(Copy copy)
    {
        try
        {
            Ended(copy, _failure);
        }
        catch (Exception failure)
        {
            _failure ??= failure;           // likewise
        }
        copy.Ended = Stopwatch.GetTimestamp();
        copy.Done.Set();
    }

    private bool TryTake(out Copy copy, out long offset)
    {
        lock (_lock)
        {
            while (_current is null && !_stop)
            {
                Monitor.Wait(_lock);
            }
            if (_stop)
            {
                (copy, offset) = (null!, 0);
                return false;
            }
            copy = _current!;
            offset = copy.Given++ * _stepBytes;
            if (copy.Given == copy.Steps)
            {
                (_current, _following) = (_following, null);
            }
            return true;
        }
    }

    // What lies between pieces is padding, and stays as it is.
    private void Gather(ReadOnlySpan<UpdatePiece> pieces, long from, long to, byte* room)
    {
        int low = 0;
        for (int high = pieces.Length; low < high;)
        {
            int middle = (low + high) / 2;
            if (pieces[middle].Offset + pieces[middle].Bytes > from)
            {
                high = middle;
            }
            else
            {
                low = middle + 1;
            }
        }
        for (; low < pieces.Length && pieces[low].Offset < to; low++)
        {
            UpdatePiece piece = pieces[low];
            long start = Math.Max(piece.Offset, from);
            CopyBytes((byte*)piece.Source + (start - piece.Offset), room + (start - from), Math.Min(piece.Offset + piece.Bytes, to) - start);
        }
    }

    /// <summary>One bucket's way into a half.</summary>
    protected sealed class Copy(int half) : IDisposable
    {
        internal readonly int Half = half;
        internal readonly ManualResetEventSlim Done = new(true);
        internal ReadOnlyMemory<UpdatePiece> Pieces;
        internal nint Destination;
        internal long Bytes;
        internal long Started;      // timestamps
        internal long Ended;
        internal long Steps;
        internal long Given;        // under the lock
        internal long Left;
        internal long FirstSlot;    // CudaStaging's

        public void Dispose() => Done.Dispose();
    }
}
