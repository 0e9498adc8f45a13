using CheckpointEngine.Access;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Cli.Output;

/// <summary>Logs to stderr, one line an event: warnings and errors, with <c>--verbose</c> also what the engine is doing.</summary>
/// <remarks>Any number of threads. Audit lines go where they are to go, else as all others. The web server's own chatter below a warning is never shown.</remarks>
internal sealed class StderrLogging(bool verbose, AuditFile? audit = null) : ILoggerFactory
{
    private readonly LogLevel _least = verbose ? LogLevel.Debug : LogLevel.Warning;

    public ILogger CreateLogger(string categoryName)
        => audit is not null && categoryName == AuditLog.Category ? new AuditLogger(audit) : new Logger(categoryName switch
        {
            // A start that fails is thrown too, and told once.
            _ when categoryName.StartsWith("Microsoft.Extensions.Hosting.", StringComparison.Ordinal) => LogLevel.None,
            _ when categoryName.StartsWith("Microsoft.", StringComparison.Ordinal) => LogLevel.Warning,
            _ => _least,
        });

    public void AddProvider(ILoggerProvider provider) => throw new NotSupportedException();

    public void Dispose() => audit?.Dispose();

    private sealed class AuditLogger(AuditFile audit) : ILogger
    {
        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => logLevel is >= LogLevel.Information and not LogLevel.None;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) => audit.Write(formatter(state, exception));
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
