namespace CheckpointEngine.Relay;

/// <summary>What a joiner offers to others of its swarm: the units that it has and has checked, where they lie in its memory.</summary>
/// <remarks>Any number of threads.</remarks>
/// <param name="layout">Which units they are.</param>
/// <param name="board">What is here.</param>
/// <param name="addresses">Where each unit lies in this process; 0 for one that is not offered.</param>
internal sealed class RelayOffer(UInt128 layout, UnitBoard board, ulong[] addresses)
{
    private int _readers;

    internal UInt128 Layout => layout;

    internal UnitBoard Board => board;

    internal ulong[] Addresses => addresses;

    /// <summary>How many read from it.</summary>
    internal int Readers => Volatile.Read(ref _readers);

    /// <summary>Somebody begins to read; <see cref="Leave"/> ends it.</summary>
    /// <returns>False when there are as many as it can bear.</returns>
    internal bool TryEnter()
    {
        if (Interlocked.Increment(ref _readers) <= Swarm.MostReaders)
        {
            return true;
        }
        Interlocked.Decrement(ref _readers);
        return false;
    }

    internal void Leave() => Interlocked.Decrement(ref _readers);
}
