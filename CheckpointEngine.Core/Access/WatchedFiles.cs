using System.IO.Hashing;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Access;

/// <summary>Looks after small files that others replace (a token, certificates) and has them read again when their bytes are others.</summary>
/// <remarks>
/// Any number of threads; one reading at a time. It looks every two seconds: what a mounted secret's links come to stand for, and what changes on another host of a network
/// file system, tells nobody. A file that cannot be used leaves what was read before as it is, which is logged once.
/// </remarks>
public sealed partial class WatchedFiles : IDisposable
{
    private const long MostBytes = 1 << 20;
    private static readonly TimeSpan s_interval = TimeSpan.FromSeconds(2);

    private readonly string[] _paths;
    private readonly Func<bool> _read;
    private readonly ILogger _logger;
    private readonly Lock _lock = new();
    private readonly Timer _timer;
    private byte[] _seen;
    private bool _isDisposed;

    /// <summary>Begins to look.</summary>
    /// <param name="paths">The files.</param>
    /// <param name="read">Reads them and takes them up; says whether that changed anything, and throws <see cref="CheckpointEngineException"/> when they cannot be used.</param>
    /// <param name="logger">Told of changes and failures; null for nobody.</param>
    /// <param name="interval">How often it looks; null for two seconds.</param>
    public WatchedFiles(IEnumerable<string> paths, Func<bool> read, ILogger? logger = null, TimeSpan? interval = null)
    {
        ArgumentNullException.ThrowIfNull(paths);
        ArgumentNullException.ThrowIfNull(read);
        _paths = [.. paths];
        _read = read;
        _logger = logger ?? NullLogger.Instance;
        _seen = Look();
        TimeSpan every = interval ?? s_interval;
        _timer = new Timer(static state => ((WatchedFiles)state!).LookAgain(), this, every, every);
    }

    /// <summary>Reads them now, changed or not.</summary>
    /// <returns>Whether they could be used; if not, what was read before stays.</returns>
    public bool Reload() => Reload(out _);

    /// <inheritdoc cref="Reload()"/>
    /// <param name="unusable">Why not; null when they could, and once disposed of.</param>
    internal bool Reload(out CheckpointEngineException? unusable)
    {
        unusable = null;
        lock (_lock)
        {
            if (_isDisposed)
            {
                return false;
            }
            _seen = Look();
            try
            {
                if (_read())
                {
                    LogTaken(string.Join(", ", _paths));
                }
                return true;
            }
            catch (CheckpointEngineException failure)
            {
                unusable = failure;
                LogKept(failure.Message);
                return false;
            }
        }
    }

    /// <summary>Looks no more.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            _isDisposed = true;
        }
        _timer.Dispose();
    }

    private void LookAgain()
    {
        lock (_lock)
        {
            if (!Look().AsSpan().SequenceEqual(_seen))
            {
                Reload();
            }
        }
    }

    // A sum of all their bytes; of a file that is gone, of nothing.
    private byte[] Look()
    {
        var sum = new XxHash128();
        foreach (string path in _paths)
        {
            sum.Append("\0"u8);
            try
            {
                using FileStream file = File.OpenRead(path);
                byte[] bytes = new byte[Math.Min(file.Length, MostBytes)];
                sum.Append(bytes.AsSpan(0, file.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false)));
            }
            catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
            {
                sum.Append("gone"u8);
            }
        }
        return sum.GetCurrentHash();
    }

    [LoggerMessage(EventId = 5111, Level = LogLevel.Information, Message = "read again: {Files}")]
    private partial void LogTaken(string files);

    [LoggerMessage(EventId = 5112, Level = LogLevel.Warning, Message = "{Reason}; what was read before stays")]
    private partial void LogKept(string reason);
}
