using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Fuzz.Support;

/// <summary>Keeps the first exception that is logged as an error: a listener survives a defect and says so there only.</summary>
internal sealed class FailureLog : ILogger
{
    private Exception? _failure;

    internal Exception? Take() => Interlocked.Exchange(ref _failure, null);

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => logLevel >= LogLevel.Error;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        if (logLevel >= LogLevel.Error)
        {
            Interlocked.CompareExchange(ref _failure, exception ?? new FindingException(formatter(state, null)), null);
        }
    }
}
