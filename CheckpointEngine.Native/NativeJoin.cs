using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Native;

/// <summary>What a ce_join stands for: a join that runs by itself, how far it is, and how it ended.</summary>
[System.Diagnostics.CodeAnalysis.SuppressMessage("Design", "CA1001", Justification = "a call of another thread may hold it when the handle is destroyed; a source without timers has nothing to free")]
internal sealed class NativeJoin : IProgress<JoinProgress>
{
    private static readonly string[] s_phases = ["metas", "plan", "transfer", "verify", "write"];     // CE_PHASE_...
    private const uint PhaseEnded = 5;

    [ThreadStatic]
    private static NativeJoin? t_inCallbackOf;

    private readonly NativeServer _server;
    private readonly MetasSource _source;
    private readonly CallerTensors? _tensors;
    private readonly BucketCallback? _callback;
    private readonly CancellationTokenSource _cancel = new();
    private readonly Lock _lock = new();
    private readonly Task _ended;
    private CeJoinProgress _progress;
    private Status _status = Status.Pending;
    private string _text = "";
    private JoinReport? _report;
    private double _metasSeconds;

    /// <summary>Starts it.</summary>
    /// <param name="server">Where it runs.</param>
    /// <param name="source">Brings the metas; becomes the join's.</param>
    /// <param name="options">What to read and where to put it; its tensors and callback become the join's.</param>
    /// <param name="callback">The consumer of buckets; null for another destination.</param>
    internal NativeJoin(NativeServer server, MetasSource source, JoinOptions options, BucketCallback? callback)
    {
        _server = server;
        _source = source;
        _tensors = options.Tensors;
        _callback = callback;
        Name = options.CheckpointName;
        IsHeld = options.Destination == JoinDestinationKind.Memory;
        callback?.Join = this;
        server.Enlist(this);
        _ended = Task.Run(() => RunAsync(options));
    }

    internal string Name { get; }

    /// <summary>Whether what it brings is held by the server.</summary>
    internal bool IsHeld { get; }

    internal NativeServer Server => _server;

    /// <summary>The join whose callback the calling thread is in; null in none.</summary>
    internal static NativeJoin? InCallbackOf
    {
        get => t_inCallbackOf;
        set => t_inCallbackOf = value;
    }

    internal CeJoinProgress Progress
    {
        get
        {
            lock (_lock)
            {
                return _progress;
            }
        }
    }

    internal double MetasSeconds => _metasSeconds;

    /// <summary>What it did.</summary>
    /// <exception cref="InvalidOperationException">It has not ended well.</exception>
    internal JoinReport Report => _report ?? throw new InvalidOperationException(_ended.IsCompleted ? $"the join has failed: {_text}" : "the join has not ended yet: ce_join_wait first");

    /// <summary>Its remarks for the user, those about its metas first.</summary>
    /// <exception cref="InvalidOperationException">It has not ended well.</exception>
    internal IEnumerable<string> Warnings => [.. _source.Notes, .. Report.Warnings];

    internal void Cancel() => _cancel.Cancel();

    /// <summary>Waits until it has ended; false when the time is over before that.</summary>
    internal bool Wait(ulong milliseconds)
    {
        const int Slice = 1 << 30;
        while (milliseconds > Slice)
        {
            if (_ended.Wait(Slice))
            {
                return true;
            }
            milliseconds -= milliseconds == ulong.MaxValue ? 0 : (ulong)Slice;
        }
        return _ended.Wait((int)milliseconds);
    }

    internal void WaitForEnd() => _ended.Wait();

    /// <summary>How it ended.</summary>
    internal (Status Status, string Text) Outcome => (_status, _text);

    void IProgress<JoinProgress>.Report(JoinProgress value)
    {
        lock (_lock)
        {
            _progress.BytesDone = (ulong)value.BytesDone;
            _progress.BytesTotal = (ulong)value.BytesTotal;
            _progress.Lanes = (uint)value.Lanes;
            string phase = value.Phase switch { "allocate" => "plan", "reuse" => "transfer", string other => other };       // taking what is here already
            _progress.Phase = (uint)Math.Max(0, Array.IndexOf(s_phases, phase));
        }
    }

    internal void BucketDone()
    {
        lock (_lock)
        {
            _progress.BucketsDone++;
        }
    }

    private async Task RunAsync(JoinOptions options)
    {
        try
        {
            long start = System.Diagnostics.Stopwatch.GetTimestamp();
            CheckpointMetas metas = await FetchInTimeAsync(options.Timeout).ConfigureAwait(false);
            TimeSpan fetching = System.Diagnostics.Stopwatch.GetElapsedTime(start);
            _metasSeconds = fetching.TotalSeconds;
            if (options.Timeout != Timeout.InfiniteTimeSpan)
            {
                options.Timeout = TimeSpan.FromTicks(Math.Max(TimeSpan.TicksPerMillisecond, (options.Timeout - fetching).Ticks));      // what is left
            }
            _report = await _server.Server.JoinAsync(metas, options, this, _cancel.Token).ConfigureAwait(false);
            _status = Status.Ok;
        }
        catch (Exception failure)
        {
            (_status, _text) = Call.Describe(failure);
        }
        _tensors?.Dispose();
        _source.Dispose();
        _callback?.Free();
        lock (_lock)
        {
            _progress.Phase = PhaseEnded;
            _progress.State = _status switch { Status.Ok => 1, Status.Cancelled => 3, _ => 2 };
            _progress.Lanes = 0;
        }
        _server.Release(this);
    }

    // The time for the whole join counts from here.
    private async Task<CheckpointMetas> FetchInTimeAsync(TimeSpan timeout)
    {
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(_cancel.Token);
        deadline.CancelAfter(timeout);
        try
        {
            return await _source.FetchAsync(deadline.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (deadline.IsCancellationRequested && !_cancel.IsCancellationRequested)
        {
            throw new CheckpointEngineException(CheckpointError.Timeout, $"join '{Name}': the metas did not come within the {timeout.TotalSeconds:0.###} s that the whole join may take");
        }
    }
}
