using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Cli.Output;

/// <summary>Logs to stderr, one line an event: warnings and errors, with <c>--verbose</c> also what the engine is doing.</summary>
/// <remarks>Any number of threads. The web server's own chatter below a warning is never shown.</remarks>
internal sealed class StderrLogging(bool verbose) : ILoggerFactory
{
    private readonly LogLevel _least = verbose ? LogLevel.Debug : LogLevel.Warning;

    public ILogger CreateLogger(string categoryName)
        => new Logger(categoryName.StartsWith("Microsoft.", StringComparison.Ordinal) ? LogLevel.Warning : _least);

    public void AddProvider(ILoggerProvider provider) => throw new NotSupportedException();

    public void Dispose()
    {
    }

    private sealed class Logger(LogLevel least) : ILogger
    {
        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => logLevel >= least && logLevel != LogLevel.None;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            if (!IsEnabled(logLevel))
            {
                return;
            }
            string text = formatter(state, exception);
            if (exception is not null && !text.Contains(exception.Message, StringComparison.Ordinal))
            {
                text += ": " + exception.Message;
            }
            switch (logLevel)
            {
                case >= LogLevel.Error:
                    Stderr.Error(text);
                    break;
                case LogLevel.Warning:
                    Stderr.Warning(text);
                    break;
                default:
                    Stderr.Note(text);
                    break;
            }
        }
    }
}
