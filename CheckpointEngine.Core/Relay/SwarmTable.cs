using System.Diagnostics;
using System.Net;

namespace CheckpointEngine.Relay;

/// <summary>The swarms that read one generation of a checkpoint from its owner: one for each choice of tensors.</summary>
/// <remarks>Any number of threads.</remarks>
internal sealed class SwarmTable
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
    /// <returns>Null when the generation is gone, there are too many swarms, or its units are others.</returns>
    internal Swarm.Seat? Enter(UInt128 layout, int units, IPAddress address)
    {
        lock (_lock)
        {
            if (!_swarms.TryGetValue(layout, out Swarm? swarm))
            {
                if (_isClosed || (_swarms.Count == MostSwarms && !DropEmpty()))
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

    private bool DropEmpty()
    {
        foreach ((UInt128 layout, Swarm swarm) in _swarms)
        {
            if (swarm.Count == 0)
            {
                return _swarms.Remove(layout);
            }
        }
        return false;
    }
}
