using System.Diagnostics;

namespace CheckpointEngine.Join;

/// <summary>Splits the time of a join into its phases: what passes between two marks belongs to the later one.</summary>
internal struct JoinPhaseClock
{
    private long _last = Stopwatch.GetTimestamp();

    public JoinPhaseClock()
    {
    }

    /// <summary>Seconds since the last mark.</summary>
    internal double Mark()
    {
        long now = Stopwatch.GetTimestamp();
        double seconds = Stopwatch.GetElapsedTime(_last, now).TotalSeconds;
        _last = now;
        return seconds;
    }
}
