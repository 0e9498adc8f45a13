using CheckpointEngine.Transfer.Rdma;

namespace CheckpointEngine.Peers;

/// <summary>
/// A promise to one peer: the memory of one generation is neither freed nor changed until the lease is released, the peer is gone, or the lease is
/// revoked. A reader that finds its lease alive when it has read everything has the bytes of that generation alone.
/// </summary>
/// <remarks>Any thread. Dispose releases it.</remarks>
internal sealed class ReadLease : IDisposable
{
    private const string Revoked = "revoked";

    private readonly Func<long> _current;
    private readonly Action? _released;
    private readonly Lock _lock = new();
    private RdmaGrant? _rdma;
    private bool _ended;

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
    /// <param name="lifetime">How long it lives without a word.</param>
    /// <param name="readers">How many leases there are.</param>
    internal LeaseAnswer Answer(TimeSpan lifetime, int readers) => Volatile.Read(ref _ended)
        ? new LeaseAnswer(0, _current(), 0, 0)
        : new LeaseAnswer(Generation, 0, (uint)lifetime.TotalMilliseconds, (uint)Math.Max(1, readers));

    /// <summary>What lets the peer connect queue pairs; null before it has asked for it.</summary>
    internal RdmaGrant? Rdma
    {
        get
        {
            lock (_lock)
            {
                return _rdma;
            }
        }
    }

    /// <summary>Has a grant end with the lease; false when the lease has ended.</summary>
    internal bool TryKeep(RdmaGrant grant)
    {
        lock (_lock)
        {
            _rdma = _ended ? _rdma : grant;
            return !_ended;
        }
    }

    /// <summary>Takes the promise back: the memory may go.</summary>
    internal void Revoke() => End(Revoked);

    /// <summary>How it ended; empty while it lives.</summary>
    internal string HowItEnded { get; private set; } = "";

    /// <summary>Its peer's conversation is over.</summary>
    public void Dispose() => End("left");

    internal void End(string how)
    {
        RdmaGrant? rdma;
        lock (_lock)
        {
            if (_ended)
            {
                return;
            }
            _ended = true;
            rdma = _rdma;
        }
        HowItEnded = how;
        rdma?.End(isRevoked: how == Revoked);       // before the memory may go
        _released?.Invoke();
    }
}
