using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Cli.Output;

/// <summary>Shows how far a join, or the copy of a checkpoint's files into memory, is while it runs.</summary>
internal abstract class ProgressDisplay : IProgress<JoinProgress>, IProgress<LoadProgress>
{
    private readonly Lock _lock = new();
    private JoinProgress _latest;

    /// <summary>The display of a join: silent for JSON, a live bar on a terminal, lines elsewhere.</summary>
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

    private sealed class SilentDisplay : ProgressDisplay
    {
        public override Task<T> RunAsync<T>(Func<ProgressDisplay, Task<T>> work) => work(this);
    }
}
