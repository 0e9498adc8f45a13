namespace CheckpointEngine.Peers;

/// <summary>
/// A promise to one peer: the memory of one generation is neither freed nor changed until the lease is released, the peer is gone, or the lease is
/// revoked. A reader that finds its lease alive when it has read everything has the bytes of that generation alone.
/// </summary>
/// <remarks>Any thread. Dispose releases it.</remarks>
internal sealed class ReadLease : IDisposable
{
    private readonly Func<long> _current;
    private readonly Action? _released;
    private int _ended;

    /// <param name="generation">What it is for; not 0.</param>
    /// <param name="current">The generation that is held under the same name at a moment; 0 when there is none.</param>
    /// <param name="released">Called once, when it is released or revoked.</param>
    internal ReadLease(long generation, Func<long> current, Action? released = null)
    {
        Generation = generation;
        _current = current;
        _released = released;
    }

    /// <summary>The generation that it is for.</summary>
    internal long Generation { get; }

    /// <summary>What the peer is told of it now.</summary>
    internal LeaseAnswer Answer(TimeSpan lifetime) => Volatile.Read(ref _ended) == 0
        ? new LeaseAnswer(Generation, 0, (uint)lifetime.TotalMilliseconds)
        : new LeaseAnswer(0, _current(), 0);

    /// <summary>Takes the promise back: the memory may go.</summary>
    internal void Revoke() => End("revoked");

    /// <summary>How it ended; empty while it lives.</summary>
    internal string HowItEnded { get; private set; } = "";

    /// <summary>Its peer's conversation is over.</summary>
    public void Dispose() => End("left");

    internal void End(string how)
    {
        if (Interlocked.Exchange(ref _ended, 1) == 0)
        {
            HowItEnded = how;
            _released?.Invoke();
        }
    }
}
