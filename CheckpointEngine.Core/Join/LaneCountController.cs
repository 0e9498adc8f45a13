namespace CheckpointEngine.Join;

/// <summary>
/// Finds how many lanes carry the most: begins low, adds half as many again while the rate grows by a twelfth or more, takes the last step back when
/// it did not.
/// </summary>
/// <remarks>One thread. More lanes than cores made a loopback slower; a fast network card needs several, for one core fills about 40 Gb/s.</remarks>
internal sealed class LaneCountController
{
    private const double WorthKeeping = 1.08;
    private static readonly TimeSpan s_window = TimeSpan.FromMilliseconds(150);
    private static readonly TimeSpan s_rest = TimeSpan.FromSeconds(3);

    private readonly int _least;
    private readonly int _most;
    private readonly int _sharedCores;   // by all readers of the owner; 0 where a reader has cores of its own, or the count is fixed
    private int _lanes;
    private int _step;
    private double _rateBefore;          // of the count before the last step up; 0 while none is on trial
    private bool _onTrial;
    private long _windowBytes;
    private TimeSpan _windowStart;
    private TimeSpan _restUntil;

    /// <param name="owners">Owners that are read from.</param>
    /// <param name="allHere">Whether all of them run on this host.</param>
    /// <param name="cores">Cores of this host.</param>
    /// <param name="fixedLanes">What the user asked for; 0 to find out.</param>
    /// <param name="limit">The most there may ever be.</param>
    /// <param name="readers">Leases that the busiest owner has out, that of this join among them.</param>
    internal LaneCountController(int owners, bool allHere, int cores, int fixedLanes, int limit, int readers = 1)
    {
        // On one host senders and receivers share the cores, and a lane keeps one busy at each end: half as many lanes as cores fill them (on 16 cores 8 lanes carry twice what 4 do, and
        // 16 no more; on two cores two carry a fifth more than one, four carry less). Over a network every owner has a link of its own.
        _most = fixedLanes != 0 ? fixedLanes : Math.Clamp(allHere ? cores : Math.Max(4, cores), 1, limit);
        _least = fixedLanes != 0 ? fixedLanes : Math.Min(_most, allHere ? Math.Clamp(cores / 2, 2, 8) : Math.Clamp(owners, 4, 8));
        _sharedCores = fixedLanes == 0 && allHere ? cores : 0;
        _lanes = Math.Min(_least, Ceiling(readers));
    }

    /// <param name="links">The owners; null for those that are not needed.</param>
    /// <param name="fixedLanes">What the user asked for; 0 to find out.</param>
    /// <param name="limit">The most there may ever be.</param>
    internal LaneCountController(OwnerLink?[] links, int fixedLanes, int limit)
        : this(links.Count(link => link is not null), Array.TrueForAll(links, link => link is null || link.IsSameHost), Environment.ProcessorCount, fixedLanes, limit, Readers(links))
    {
    }

    /// <summary>With how many to begin.</summary>
    internal int Initial => _lanes;

    /// <summary>Whether there is one count only.</summary>
    internal bool IsFixed => _least == _most;

    /// <summary>How many there should be from now on.</summary>
    /// <param name="bytesDone">Bytes that have arrived so far.</param>
    /// <param name="elapsed">Time since the start.</param>
    /// <param name="readers">As at the start, now.</param>
    internal int Next(long bytesDone, TimeSpan elapsed, int readers = 1)
    {
        TimeSpan window = elapsed - _windowStart;
        int most = Ceiling(readers), least = Math.Min(_least, most);
        if (_lanes < least || _lanes > most)
        {
            (_onTrial, _windowBytes, _windowStart) = (false, bytesDone, elapsed);
            return _lanes = Math.Clamp(_lanes, least, most);
        }
        if (least == most || window < s_window || elapsed < _restUntil)
        {
            return _lanes;
        }
        double rate = (bytesDone - _windowBytes) / window.TotalSeconds;
        _windowBytes = bytesDone;
        _windowStart = elapsed;
        if (_onTrial && rate < _rateBefore * WorthKeeping)
        {
            _onTrial = false;
            _restUntil = elapsed + s_rest;
            return _lanes -= _step;
        }
        _onTrial = _lanes < most;
        _rateBefore = rate;
        _step = Math.Min(most - _lanes, Math.Max(1, _lanes / 2));
        return _lanes += _step;
    }

    /// <summary>How many read from the busiest of the owners.</summary>
    internal static int Readers(OwnerLink?[] links)
    {
        int most = 1;
        foreach (OwnerLink? link in links)
        {
            most = Math.Max(most, link?.Lease?.Readers ?? 1);
        }
        return most;
    }

    // Many readers on one host keep its cores busy with a lane each; with more they push each other's bytes out of the cache: 64 readers on two cores brought 4 % less in sum with two.
    private int Ceiling(int readers) => _sharedCores == 0 ? _most : Math.Clamp(2 * _sharedCores / readers, 1, _most);
}
