namespace CheckpointEngine.Cli;

/// <summary>The command line asks for something that cannot be; found after parsing. Ends with <see cref="ExitCode.Usage"/>.</summary>
internal sealed class UsageException(string message) : Exception(message);
