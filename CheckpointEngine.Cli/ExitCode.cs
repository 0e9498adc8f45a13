namespace CheckpointEngine.Cli;

/// <summary>What the command's exit status means; scripts rely on it.</summary>
internal static class ExitCode
{
    public const int Done = 0;

    /// <summary>It failed; one line on stderr says what, where, and what to try.</summary>
    public const int Failed = 1;

    /// <summary>The command line was not understood; nothing was done.</summary>
    public const int Usage = 2;

    /// <summary>Plus the signal's number: interrupted before it was done (130 SIGINT, 143 SIGTERM).</summary>
    public const int SignalBase = 128;
}
