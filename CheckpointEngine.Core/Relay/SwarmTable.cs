using System.Diagnostics;
using System.Net;

namespace CheckpointEngine.Relay;

/// <summary>The swarms that read one generation of a checkpoint from its owner: one for each choice of tensors.</summary>
/// <remarks>Any number of threads.</remarks>
/// <param name="mostUnits">As many units as there can be: a stranger's word for it takes no more memory.</param>
internal sealed class SwarmTable(int mostUnits)
{
    // Each rank of a tensor-parallel engine may read a part of its own.
    private const int MostSwarms = 256;

    private readonly Lock _lock = new();
    private readonly Dictionary<UInt128, Swarm> _swarms = [];
    private bool _isClosed;

    /// <summary>The time that swarms go by.</summary>
    internal static TimeSpan Now => Stopwatch.GetElapsedTime(0);

    /// <summary>Joiners in all of them.</summary>
    internal int Members
    {
        get
        {
            lock (_lock)
            {
                return _swarms.Values.Sum(static swarm => swarm.Count);
            }
        }
    }

    /// <summary>Whether the generation is gone.</summary>
    internal bool IsClosed => Volatile.Read(ref _isClosed);

    /// <summary>A joiner comes to a swarm, which is made for the first one.</summary>
    /// <returns>Null when the generation is gone, there are too many swarms, or its units are others than they can be.</returns>
    internal Swarm.Seat? Enter(UInt128 layout, int units, IPAddress address)
    {
        lock (_lock)
        {
            if (!_swarms.TryGetValue(layout, out Swarm? swarm))
            {
                if (_isClosed || units > mostUnits || _swarms.Count == MostSwarms)
                {
                    return null;
                }
                _swarms.Add(layout, swarm = new Swarm(units, new Random()));
            }
            return swarm.Units == units && !_isClosed ? swarm.Enter(address, Now) : null;
        }
    }

    /// <summary>The generation goes: nobody enters any more, and who is there is told so when it asks.</summary>
    internal void Close() => Volatile.Write(ref _isClosed, true);

    /// <summary>Forgets a swarm that the last joiner has left: who comes later begins anew.</summary>
    internal void DropIfEmpty(UInt128 layout)
    {
        lock (_lock)
        {
            if (_swarms.TryGetValue(layout, out Swarm? swarm) && swarm.Count == 0)
            {
                _swarms.Remove(layout);
            }
        }
    }
}
