using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>A lease's leave to connect queue pairs, until the lease ends.</summary>
/// <remarks>Any number of threads.</remarks>
internal sealed class RdmaGrant
{
    // A join connects each lane once, and again where devices fail.
    private const int MostConnections = 4096;

    private readonly RdmaGrants _grants;
    private readonly Lock _lock = new();
    private readonly HashSet<UInt128> _used = [];

    internal RdmaGrant(RdmaGrants grants, RdmaKey key, byte[] salt)
    {
        _grants = grants;
        Key = key;
        Salt = salt;
    }

    internal RdmaKey Key { get; }

    /// <summary>What the peer makes the key with.</summary>
    internal byte[] Salt { get; }

    /// <summary>Whether a message with that number has connected queue pairs: once more it connects none.</summary>
    internal bool IsUsed(UInt128 nonce)
    {
        lock (_lock)
        {
            return _used.Contains(nonce);
        }
    }

    /// <summary>Notes that queue pairs are connected for a message; false when some were already.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Busy"/>: more than one lease may connect.</exception>
    internal bool TryUse(UInt128 nonce)
    {
        lock (_lock)
        {
            if (_used.Count == MostConnections)
            {
                ThrowHelper.Throw(CheckpointError.Busy, $"one lease connects at most {MostConnections:N0} times; take another one");
            }
            return _used.Add(nonce);
        }
    }

    /// <summary>Ends it with its queue pairs, once.</summary>
    /// <param name="isRevoked">Whether the peer may be reading, and is to learn by its reads that it must not.</param>
    internal void End(bool isRevoked) => _grants.End(this, isRevoked);
}
