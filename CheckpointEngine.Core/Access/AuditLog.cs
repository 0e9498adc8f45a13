using CheckpointEngine.Internal;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Access;

/// <summary>Who did what and who was refused, one line each, in the log category <see cref="Category"/>: what was registered, who read it, who was turned away.</summary>
/// <remarks>
/// Any number of threads. Texts of strangers are cut and cleaned. Refusals are written at most fifty times a second; the line after those that were left out says how many.
/// </remarks>
public sealed partial class AuditLog
{
    /// <summary>The name of the category; its lines are at level Information.</summary>
    public const string Category = "CheckpointEngine.Audit";

    private const int MostRefusalsPerSecond = 50;
    private const int MaxReasonChars = 300;

    private readonly ILogger _logger;
    private readonly LogThrottle _refusals = new(TimeSpan.FromSeconds(1), MostRefusalsPerSecond, TimeProvider.System);

    /// <param name="loggerFactory">Where the category is.</param>
    public AuditLog(ILoggerFactory loggerFactory) => _logger = loggerFactory.CreateLogger(Category);

    /// <summary>Somebody was turned away.</summary>
    /// <param name="where">On which plane: <c>http</c>, <c>peers</c>, <c>data</c>, <c>handshake</c>, <c>local</c>.</param>
    /// <param name="peer">Who.</param>
    /// <param name="reason">Why, in words.</param>
    public void Refused(string where, string peer, string reason)
    {
        if (_logger.IsEnabled(LogLevel.Information) && _refusals.TryTake(out long withheld))
        {
            if (withheld != 0)
            {
                LogWithheld(withheld);
            }
            LogRefused(where, MessageText.Clean(peer, MaxReasonChars), MessageText.Quote(MessageText.Clean(reason, MaxReasonChars)));
        }
    }

    internal void Registered(string checkpoint, long generation, int tensors, long bytes, string source)
    {
        if (_logger.IsEnabled(LogLevel.Information))
        {
            LogRegistered(MessageText.Quote(checkpoint), generation, tensors, bytes, source);
        }
    }

    internal void Unregistered(string checkpoint, long generation)
    {
        if (_logger.IsEnabled(LogLevel.Information))
        {
            LogUnregistered(MessageText.Quote(checkpoint), generation);
        }
    }

    internal void Superseded(string checkpoint, long old, long generation)
    {
        if (_logger.IsEnabled(LogLevel.Information))
        {
            LogSuperseded(MessageText.Quote(checkpoint), old, generation);
        }
    }

    internal void UpdateBegan(string checkpoint, long generation)
    {
        if (_logger.IsEnabled(LogLevel.Information))
        {
            LogUpdateBegan(MessageText.Quote(checkpoint), generation);
        }
    }

    internal void UpdateCommitted(string checkpoint, long generation)
    {
        if (_logger.IsEnabled(LogLevel.Information))
        {
            LogUpdateCommitted(MessageText.Quote(checkpoint), generation);
        }
    }

    internal void LeaseTaken(string peer, string checkpoint, long generation, long bytes)
    {
        if (_logger.IsEnabled(LogLevel.Information))
        {
            LogLeaseTaken(peer, MessageText.Quote(checkpoint), generation, bytes);
        }
    }

    internal void LeaseEnded(string peer, string checkpoint, long generation, string how, TimeSpan after)
    {
        if (_logger.IsEnabled(LogLevel.Information))
        {
            LogLeaseEnded(peer, MessageText.Quote(checkpoint), generation, how, after.TotalSeconds);
        }
    }

    internal void RelayTaken(string peer, int units)
    {
        if (_logger.IsEnabled(LogLevel.Information))
        {
            LogRelayTaken(MessageText.Clean(peer, MaxReasonChars), units);
        }
    }

    internal void RelayEnded(string peer, TimeSpan taken)
    {
        if (_logger.IsEnabled(LogLevel.Information))
        {
            LogRelayEnded(MessageText.Clean(peer, MaxReasonChars), Math.Round(taken.TotalSeconds, 3));
        }
    }

    internal void MemoryGiven(string peer, string checkpoint, long generation, long bytes, string how)
    {
        if (_logger.IsEnabled(LogLevel.Information))
        {
            LogMemoryGiven(peer, MessageText.Quote(checkpoint), generation, bytes, how);
        }
    }

    [LoggerMessage(EventId = 5001, Level = LogLevel.Information, Message = "register checkpoint={Checkpoint} generation={Generation} tensors={Tensors} bytes={Bytes} source={Source}")]
    private partial void LogRegistered(string checkpoint, long generation, int tensors, long bytes, string source);

    [LoggerMessage(EventId = 5002, Level = LogLevel.Information, Message = "unregister checkpoint={Checkpoint} generation={Generation}")]
    private partial void LogUnregistered(string checkpoint, long generation);

    [LoggerMessage(EventId = 5003, Level = LogLevel.Information, Message = "supersede checkpoint={Checkpoint} generation={Old} by={Generation}")]
    private partial void LogSuperseded(string checkpoint, long old, long generation);

    [LoggerMessage(EventId = 5004, Level = LogLevel.Information, Message = "update-begin checkpoint={Checkpoint} generation={Generation}")]
    private partial void LogUpdateBegan(string checkpoint, long generation);

    [LoggerMessage(EventId = 5005, Level = LogLevel.Information, Message = "update-commit checkpoint={Checkpoint} generation={Generation}")]
    private partial void LogUpdateCommitted(string checkpoint, long generation);

    [LoggerMessage(EventId = 5006, Level = LogLevel.Information, Message = "lease-taken peer={Peer} checkpoint={Checkpoint} generation={Generation} bytes={Bytes}")]
    private partial void LogLeaseTaken(string peer, string checkpoint, long generation, long bytes);

    [LoggerMessage(EventId = 5007, Level = LogLevel.Information, Message = "lease-ended peer={Peer} checkpoint={Checkpoint} generation={Generation} how={How} seconds={Seconds}")]
    private partial void LogLeaseEnded(string peer, string checkpoint, long generation, string how, double seconds);

    [LoggerMessage(EventId = 5008, Level = LogLevel.Information, Message = "memory-given peer={Peer} checkpoint={Checkpoint} generation={Generation} bytes={Bytes} how={How}")]
    private partial void LogMemoryGiven(string peer, string checkpoint, long generation, long bytes, string how);

    [LoggerMessage(EventId = 5011, Level = LogLevel.Information, Message = "relay-taken peer={Peer} units={Units}")]
    private partial void LogRelayTaken(string peer, int units);

    [LoggerMessage(EventId = 5012, Level = LogLevel.Information, Message = "relay-ended peer={Peer} seconds={Seconds}")]
    private partial void LogRelayEnded(string peer, double seconds);

    [LoggerMessage(EventId = 5009, Level = LogLevel.Information, Message = "refuse where={Where} peer={Peer} reason={Reason}")]
    private partial void LogRefused(string where, string peer, string reason);

    [LoggerMessage(EventId = 5010, Level = LogLevel.Information, Message = "refuse withheld={Count}")]
    private partial void LogWithheld(long count);
}
