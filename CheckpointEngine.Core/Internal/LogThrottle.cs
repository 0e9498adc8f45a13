namespace CheckpointEngine.Internal;

/// <summary>Lets a number of lines of a kind through in each interval, so that strangers cannot fill a disk with them.</summary>
/// <remarks>Any number of threads.</remarks>
internal sealed class LogThrottle(TimeSpan interval, int most, TimeProvider clock)
{
    private readonly Lock _lock = new();
    private long _began;
    private int _taken;
    private long _withheld;

    /// <summary>Whether a line may be written now.</summary>
    /// <param name="withheld">How many were not since the last one; only when it may.</param>
    internal bool TryTake(out long withheld)
    {
        lock (_lock)
        {
            long now = clock.GetTimestamp();
            if (_taken == 0 || clock.GetElapsedTime(_began, now) >= interval)
            {
                (_began, _taken) = (now, 0);
            }
            if (_taken == most)
            {
                _withheld++;
                withheld = 0;
                return false;
            }
            _taken++;
            (withheld, _withheld) = (_withheld, 0);
            return true;
        }
    }
}
