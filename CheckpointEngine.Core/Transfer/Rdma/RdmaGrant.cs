namespace CheckpointEngine.Transfer.Rdma;

/// <summary>A lease's leave to connect queue pairs, until the lease ends.</summary>
/// <remarks>Any number of threads.</remarks>
internal sealed class RdmaGrant
{
    // Messages of lanes that connect at once overtake each other, by fewer than this.
    private const int Window = 1024;

    private readonly RdmaGrants _grants;
    private readonly Lock _lock = new();
    private readonly bool[] _used = new bool[Window];       // by the number of a message, of the last ones up to the highest
    private ulong _highest;

    internal RdmaGrant(RdmaGrants grants, RdmaKey key, byte[] salt)
    {
        _grants = grants;
        Key = key;
        Salt = salt;
    }

    internal RdmaKey Key { get; }

    /// <summary>What the peer makes the key with.</summary>
    internal byte[] Salt { get; }

    /// <summary>Whether the message of that number has connected queue pairs, or is so old that this is not known: it connects none.</summary>
    internal bool IsUsed(ulong sequence)
    {
        lock (_lock)
        {
            return IsUsedNow(sequence);
        }
    }

    /// <summary>Notes that queue pairs are connected for a message; false when it is used.</summary>
    internal bool TryUse(ulong sequence)
    {
        lock (_lock)
        {
            if (IsUsedNow(sequence))
            {
                return false;
            }
            if (sequence > _highest)
            {
                for (ulong between = Math.Max(_highest + 1, sequence - Math.Min(sequence, Window)); between < sequence; between++)
                {
                    _used[between % Window] = false;
                }
                _highest = sequence;
            }
            return _used[sequence % Window] = true;
        }
    }

    /// <summary>Ends it with its queue pairs, once.</summary>
    /// <param name="isRevoked">Whether the peer may be reading, and is to learn by its reads that it must not.</param>
    internal void End(bool isRevoked) => _grants.End(this, isRevoked);

    private bool IsUsedNow(ulong sequence) => sequence <= _highest && (_highest - sequence >= Window || _used[sequence % Window]);
}
