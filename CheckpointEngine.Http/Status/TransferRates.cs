
namespace CheckpointEngine.Http.Status;

/// <summary>Rates from what counters say each time that somebody looks.</summary>
/// <remarks>Any number of threads; several viewers share what it remembers.</remarks>
internal sealed class TransferRates(TimeProvider time)
{
    // Looks that are closer together are measured from the same one before; one that is longer ago says nothing of now.
    private static readonly TimeSpan s_shortest = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(30);

    private readonly Lock _lock = new();
    private Look _before;
    private Look _latest;

    /// <summary>Takes what the counters say now.</summary>
    /// <returns>Bytes per second of each counter that was there before, too; null of the others.</returns>
    internal Func<string, double?> Take(IReadOnlyDictionary<string, long> bytes)
    {
        lock (_lock)
        {
            long now = time.GetTimestamp();
            Look first = _latest;
            if (_latest.Bytes is null || time.GetElapsedTime(_latest.Time, now) >= s_shortest)
            {
                _before = _latest;
                _latest = new Look(now, bytes);
            }
            Look before = _before.Bytes is null ? first : _before;
            double seconds = before.Bytes is null ? 0 : time.GetElapsedTime(before.Time, now).TotalSeconds;
            return counter => seconds > 0 && seconds <= s_longest.TotalSeconds && before.Bytes!.TryGetValue(counter, out long then) && bytes.TryGetValue(counter, out long current)
                ? Math.Max(0, current - then) / seconds
                : null;
        }
    }

    private readonly record struct Look(long Time, IReadOnlyDictionary<string, long>? Bytes);
}
