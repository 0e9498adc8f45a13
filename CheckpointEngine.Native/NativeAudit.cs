using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Native;

/// <summary>Where a server of the C interface writes its audit lines: a file that is appended to, or stderr; the library logs nothing else.</summary>
/// <remarks>Any number of threads. The file is opened for each line, which has the time in UTC before it: it may be moved away. A line that cannot be written is lost.</remarks>
internal sealed class NativeAudit : ILoggerFactory, ILogger
{
    private const string OfStderr = "-";
    private const int MaxLineChars = 4096;
    private const int StandardError = 2;

    private readonly Lock _lock = new();
    private readonly string _path;

    /// <param name="path">The file, made if it is not there, or <c>-</c> for stderr.</param>
    /// <exception cref="CheckpointEngineException">It cannot be opened.</exception>
    internal NativeAudit(string path)
    {
        _path = path;
        try
        {
            Open().Dispose();
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"open audit log '{path}': {failure.Message}", 0, failure);
        }
    }

    public ILogger CreateLogger(string categoryName) => categoryName == AuditLog.Category ? this : NullLogger.Instance;

    public void AddProvider(ILoggerProvider provider) => throw new NotSupportedException();

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => logLevel is >= LogLevel.Information and not LogLevel.None;

    // Compiled once for each kind of line: no more than the call.
    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) => Write(formatter(state, exception));

    public void Dispose()
    {
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private void Write(string text)
    {
        string line = DateTime.UtcNow.ToString("yyyy-MM-dd'T'HH:mm:ss.fff'Z'", CultureInfo.InvariantCulture) + " " + MessageText.Clean(text, MaxLineChars) + "\n";
        lock (_lock)
        {
            try
            {
                using FileStream stream = Open();
                stream.Write(Encoding.UTF8.GetBytes(line));
            }
            catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
            {
                // A full disk is no reason to serve nobody.
            }
        }
    }

    private FileStream Open() => _path == OfStderr
        ? new FileStream(new SafeFileHandle(StandardError, ownsHandle: false), FileAccess.Write, bufferSize: 0)
        : new FileStream(_path, FileMode.Append, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete, bufferSize: 0);
}
