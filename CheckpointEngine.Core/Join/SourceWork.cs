using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>What is still to be read from one source: an owner, or a joiner that offers what it has. Lanes take units and give back those that they could not finish.</summary>
/// <remarks>Any number of threads; a unit is 4 MiB, so locks are taken a thousand times a second at most.</remarks>
internal abstract class SourceWork
{
    /// <summary>Bytes that no lane has taken and that this source has or is to have; 0 exactly when there is none.</summary>
    internal abstract long RemainingBytes { get; }

    /// <summary>About the bytes of it that may be taken now, to share the lanes out by.</summary>
    internal virtual long TakeableBytes => RemainingBytes;

    /// <summary>Whether there is a unit to take at this moment.</summary>
    internal abstract bool HasUnitToTake { get; }

    /// <summary>Lanes at work on this source; under the lock of the run.</summary>
    internal int Lanes { get; set; }

    /// <summary>The most lanes that are of use.</summary>
    internal virtual int MostLanes => int.MaxValue;

    /// <summary>The most bytes that a lane should have in flight.</summary>
    internal virtual int MostBytesInFlight => int.MaxValue;

    /// <summary>Takes a unit; false when there is none, or none that may be read yet.</summary>
    /// <param name="unit">The unit.</param>
    /// <param name="address">Where it lies with the source.</param>
    internal abstract bool TryTake(out ReadUnit unit, out ulong address);

    /// <summary>Puts a unit back that could not be read.</summary>
    internal abstract void GiveBack(in ReadUnit unit);

    /// <summary>Notes a unit that is in its place and checked, as far as it can be by now.</summary>
    internal virtual void Completed(in ReadUnit unit)
    {
    }
}
