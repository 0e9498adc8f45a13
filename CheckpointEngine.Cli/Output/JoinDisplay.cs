namespace CheckpointEngine.Cli.Output;

/// <summary>Shows how far a join is while it runs.</summary>
internal abstract class JoinDisplay : IProgress<JoinProgress>
{
    private readonly Lock _lock = new();
    private JoinProgress _latest;

    /// <summary>The display for this output: silent for JSON, a live bar on a terminal, lines elsewhere.</summary>
    public static JoinDisplay Create(bool json)
        => json ? new SilentJoinDisplay() : Console.IsOutputRedirected ? new PlainJoinDisplay() : new LiveJoinDisplay();

    /// <summary>Runs a join and shows it.</summary>
    public abstract Task<JoinReport> RunAsync(Func<IProgress<JoinProgress>, Task<JoinReport>> join);

    /// <summary>Takes the engine's latest word; never draws, so that it costs the engine nothing.</summary>
    public void Report(JoinProgress value)
    {
        lock (_lock)
        {
            _latest = value;
        }
    }

    protected static string LanesText(int lanes) => lanes == 1 ? "1 lane" : $"{lanes} lanes";

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
}

/// <summary>Shows nothing.</summary>
internal sealed class SilentJoinDisplay : JoinDisplay
{
    public override Task<JoinReport> RunAsync(Func<IProgress<JoinProgress>, Task<JoinReport>> join) => join(this);
}
