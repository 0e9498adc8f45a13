using System.Globalization;
using CheckpointEngine.Access;

namespace CheckpointEngine.Cli.Output;

/// <summary>Where audit lines go: a file that is appended to, a line each with the time in UTC before it.</summary>
/// <remarks>Any number of threads. A line is handed to the system before the call returns; a file that cannot be written to any more is told once and tried again.</remarks>
internal sealed class AuditFile : IDisposable
{
    private const string OfStderr = "-";

    private readonly Lock _lock = new();
    private readonly string _path;
    private TextWriter? _writer;
    private bool _toldOfFailure;

    /// <param name="path">The file, or <c>-</c> for stderr.</param>
    /// <exception cref="CheckpointEngineException">It cannot be opened.</exception>
    public AuditFile(string path)
    {
        _path = path;
        try
        {
            _writer = Open();
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"open audit log '{path}': {failure.Message}", 0, failure);
        }
    }

    /// <summary>Appends a line.</summary>
    public void Write(string text)
    {
        string line = DateTime.UtcNow.ToString("yyyy-MM-dd'T'HH:mm:ss.fff'Z'", CultureInfo.InvariantCulture) + " " + Stderr.OneLine(text);
        lock (_lock)
        {
            try
            {
                (_writer ??= Open()).WriteLine(line);
                _toldOfFailure = false;
            }
            catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
            {
                _writer = null;
                if (!_toldOfFailure)
                {
                    _toldOfFailure = true;
                    Stderr.Warning($"audit log '{_path}': {failure.Message}; lines are lost until it can be written to");
                }
            }
        }
    }

    /// <summary>Goes on in the file that has the name now: what log rotation asks for.</summary>
    public void Reopen()
    {
        lock (_lock)
        {
            Close();
        }
    }

    public void Dispose()
    {
        lock (_lock)
        {
            Close();
        }
    }

    private TextWriter Open() => _path == OfStderr ? Console.Error
        : new StreamWriter(new FileStream(_path, FileMode.Append, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete)) { AutoFlush = true };

    private void Close()
    {
        if (_path != OfStderr)
        {
            _writer?.Dispose();
        }
        _writer = null;
    }
}
