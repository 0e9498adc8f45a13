using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Tests;

/// <summary>Keeps the lines that are logged, each with its category.</summary>
internal sealed class RecordedLog : ILoggerFactory
{
    private readonly ConcurrentQueue<(string Category, LogLevel Level, string Text)> _lines = new();

    /// <summary>The lines of a category so far.</summary>
    internal string[] Of(string category) => [.. _lines.Where(line => line.Category == category).Select(line => line.Text)];

    internal int Count => _lines.Count;

    public ILogger CreateLogger(string categoryName) => new Logger(this, categoryName);

    public void AddProvider(ILoggerProvider provider) => throw new NotSupportedException();

    public void Dispose()
    {
    }

    private sealed class Logger(RecordedLog log, string category) : ILogger
    {
        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
            => log._lines.Enqueue((category, logLevel, formatter(state, exception)));
    }
}
