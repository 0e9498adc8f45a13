using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Cli.Output;

/// <summary>Shows how far a join, an update, or the copy of a checkpoint's files into memory is while it runs.</summary>
internal abstract class ProgressDisplay : IProgress<JoinProgress>, IProgress<LoadProgress>, IProgress<InferenceUpdateProgress>
{
    private readonly Lock _lock = new();
    private JoinProgress _latest;

    /// <summary>The display of a join or an update: silent for JSON, a live bar on a terminal, lines elsewhere.</summary>
    public static ProgressDisplay OfJoin(bool json)
        => json ? new SilentDisplay() : Console.IsOutputRedirected ? new PlainProgressDisplay(Console.Out) : new LiveProgressDisplay(Console.Out);

    /// <summary>The display of a registration, on stderr; silent for JSON, and where nothing is copied.</summary>
    public static ProgressDisplay OfRegistration(HoldMode hold, bool json)
        => json || hold == HoldMode.Map ? new SilentDisplay() : Console.IsErrorRedirected ? new PlainProgressDisplay(Console.Error) : new LiveProgressDisplay(Console.Error);

    /// <summary>Runs what reports to this display, and shows it.</summary>
    public abstract Task<T> RunAsync<T>(Func<ProgressDisplay, Task<T>> work);

    /// <summary>Takes the engine's latest word; never draws, so that it costs the engine nothing.</summary>
    public void Report(JoinProgress value)
    {
        lock (_lock)
        {
            _latest = value;
        }
    }

    /// <inheritdoc cref="Report(JoinProgress)"/>
    public void Report(LoadProgress value) => Report(new JoinProgress(value.BytesDone, value.BytesTotal, 0, "copy"));

    /// <inheritdoc cref="Report(JoinProgress)"/>
    public void Report(InferenceUpdateProgress value)
    {
        if (value.Note is not null)
        {
            Stderr.Note($"waiting for the inference server: {value.Note}");
        }
        Report(new JoinProgress(value.BytesDone, value.Phase is "health" or "connect" ? 0 : value.BytesTotal, 0, value.Phase));
    }

    /// <summary>Where a join tells its state; null when nobody looks, so that 64 silent joins of one host do not wake up for it.</summary>
    public IProgress<JoinProgress>? Transfer => this is SilentDisplay ? null : this;

    /// <summary>Of an update that goes on beside a join, which is what is shown: just what it waits for, and itself once the join has ended.</summary>
    public IProgress<InferenceUpdateProgress> Notes => new UpdateNotes(this);

    protected static string LanesText(int lanes) => lanes == 0 ? "" : lanes == 1 ? "1 lane" : $"{lanes} lanes";

    protected JoinProgress Latest
    {
        get
        {
            lock (_lock)
            {
                return _latest;
            }
        }
    }

    private sealed class UpdateNotes(ProgressDisplay display) : IProgress<InferenceUpdateProgress>
    {
        private bool _joined;

        public void Report(InferenceUpdateProgress value)
        {
            if (value.Note is not null)
            {
                Stderr.Note($"waiting for the inference server: {value.Note}");
            }
            _joined |= display.Latest is { BytesTotal: > 0 } join && join.BytesDone == join.BytesTotal;
            if (_joined)
            {
                display.Report(new JoinProgress(value.BytesDone, value.BytesTotal, 0, value.Phase));
            }
        }
    }

    private sealed class SilentDisplay : ProgressDisplay
    {
        public override Task<T> RunAsync<T>(Func<ProgressDisplay, Task<T>> work) => work(this);
    }
}
