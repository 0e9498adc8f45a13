using System.Diagnostics;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Inference;

/// <summary>A few threads that copy the pieces of a bucket while the caller waits for workers.</summary>
/// <remarks>One caller. Between buckets the threads sleep; a bucket allocates nothing.</remarks>
internal sealed unsafe class CopyCrew : IDisposable
{
    // What a thread takes at a time: large enough to stream, small enough that threads end together.
    private const long StepBytes = 1 << 20;

    // A server's workers want cores, too.
    private const int CoresLeft = 2;
    private const int FewCores = 4;

    private readonly SemaphoreSlim _go = new(0);
    private readonly ManualResetEventSlim _done = new(true);
    private readonly Thread[] _threads;
    private ReadOnlyMemory<UpdatePiece> _pieces;
    private nint _destination;
    private readonly Lock _lock = new();
    private int _piece;                 // the one in hand, under the lock
    private long _pieceDone;            // bytes of it that are given out
    private int _working;
    private long _started;
    private long _ended;
    private volatile bool _stop;

    /// <param name="most">The most threads; on hosts of few cores there are fewer.</param>
    internal CopyCrew(int most)
    {
        _threads = new Thread[Math.Min(most, Environment.ProcessorCount <= FewCores ? Environment.ProcessorCount : Environment.ProcessorCount - CoresLeft)];
        for (int i = 0; i < _threads.Length; i++)
        {
            _threads[i] = new Thread(Work) { IsBackground = true, Name = "checkpoint-engine update copy" };
            _threads[i].Start();
        }
    }

    /// <summary>Starts a copy; the one before has been waited for.</summary>
    internal void Begin(ReadOnlyMemory<UpdatePiece> pieces, nint destination)
    {
        Debug.Assert(_done.IsSet, "one copy at a time");
        _pieces = pieces;
        _destination = destination;
        _piece = 0;
        _pieceDone = 0;
        _started = _ended = Stopwatch.GetTimestamp();
        _working = _threads.Length;
        _done.Reset();
        _go.Release(_threads.Length);
    }

    /// <summary>Waits for the end of a copy.</summary>
    /// <returns>Seconds that it took.</returns>
    internal double Wait()
    {
        _done.Wait();
        return Stopwatch.GetElapsedTime(_started, _ended).TotalSeconds;
    }

    /// <summary>Ends the threads, once what they have in hand is copied.</summary>
    public void Dispose()
    {
        _stop = true;
        _done.Wait();
        _go.Release(_threads.Length);
        foreach (Thread thread in _threads)
        {
            thread.Join();
        }
        _go.Dispose();
        _done.Dispose();
    }

    private void Work()
    {
        while (true)
        {
            _go.Wait();
            if (_stop && _done.IsSet)
            {
                return;
            }
            while (!_stop && TryTake(out UpdatePiece piece))
            {
                StreamingCopy.Copy((byte*)piece.Source, (byte*)_destination + piece.Offset, piece.Bytes);
            }
            if (Interlocked.Decrement(ref _working) == 0)
            {
                _ended = Stopwatch.GetTimestamp();
                _done.Set();
            }
        }
    }

    private bool TryTake(out UpdatePiece part)
    {
        lock (_lock)
        {
            ReadOnlySpan<UpdatePiece> pieces = _pieces.Span;
            while (_piece < pieces.Length && _pieceDone >= pieces[_piece].Bytes)
            {
                _piece++;
                _pieceDone = 0;
            }
            if (_piece == pieces.Length)
            {
                part = default;
                return false;
            }
            UpdatePiece piece = pieces[_piece];
            long bytes = Math.Min(StepBytes, piece.Bytes - _pieceDone);
            part = new UpdatePiece(piece.Source + (nint)_pieceDone, piece.Offset + _pieceDone, bytes);
            _pieceDone += bytes;
            return true;
        }
    }
}
