using CheckpointEngine.Planning;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Join;

/// <summary>What is read of one owner together with other joiners: from the owner what it has given to this one, the rest from those that have it.</summary>
internal sealed class SwarmWork : SourceWork
{
    private readonly TransferPlan _plan;
    private readonly IJoinDestination _destination;
    private readonly DigestVerifier _verifier;
    private readonly Func<int, bool> _mayTake;

    /// <param name="plan">The plan.</param>
    /// <param name="owner">The owner.</param>
    /// <param name="units">What is read of it, <see cref="SwarmUnits.Cut"/>.</param>
    /// <param name="destination">Says what there is room for.</param>
    /// <param name="verifier">Units are kept back until it knows what they should be: what others send is checked as it comes.</param>
    internal SwarmWork(TransferPlan plan, int owner, ReadUnit[] units, IJoinDestination destination, DigestVerifier verifier)
    {
        _plan = plan;
        Owner = owner;
        Units = units;
        _destination = destination;
        _verifier = verifier;
        _mayTake = unit => _destination.HasRoom(Units[unit]) && _verifier.Knows(Units[unit]);
        Board = new UnitBoard(Array.ConvertAll(units, static unit => unit.LengthBytes), SwarmAsker.MostRelays, new Random());
        Layout = SwarmUnits.LayoutOf(plan, units);
    }

    /// <summary>The owner.</summary>
    internal int Owner { get; }

    /// <summary>The units, in order.</summary>
    internal ReadUnit[] Units { get; }

    /// <summary>Which of them are here.</summary>
    internal UnitBoard Board { get; }

    /// <summary>What tells these units from others.</summary>
    internal UInt128 Layout { get; }

    /// <summary>Where others can read each unit in this process; null when it offers none.</summary>
    internal ulong[]? OfferedAt { get; set; }

    /// <summary>Called, on a lane, when a unit is here.</summary>
    internal Action? Progressed { get; set; }

    internal override long RemainingBytes => Board.MissingBytes;

    internal override long TakeableBytes => Math.Min(Board.MissingBytes, (long)Board.Pending * Units[0].LengthBytes);

    internal override bool HasUnitToTake => Board.HasGiven(_mayTake);

    internal override bool TryTake(out ReadUnit unit, out ulong address)
    {
        bool taken = Board.TryTakeGiven(_mayTake, out int index);
        unit = taken ? Units[index] : default;
        address = taken ? _plan.Ranges[unit.Range].RemoteAddress + (ulong)unit.OffsetInRange : 0;
        return taken;
    }

    internal override void GiveBack(in ReadUnit unit) => Board.GiveBack(IndexOf(unit));

    internal override void Completed(in ReadUnit unit)
    {
        Arrived(IndexOf(unit));
        Progressed?.Invoke();
    }

    /// <summary>Notes a unit that is here; others may have it if its bytes were checked.</summary>
    internal void Arrived(int unit) => Board.Complete(unit, OfferedAt is not null && OfferedAt[unit] != 0 && _verifier.CanCheck(Units[unit]));

    /// <summary>Takes a unit that a relay has.</summary>
    internal bool TryTakeFrom(int relay, ulong[] addresses, out ReadUnit unit, out ulong address)
    {
        bool taken = Board.TryTakeFrom(relay, _mayTake, out int index);
        unit = taken ? Units[index] : default;
        address = taken ? addresses[index] : 0;
        return taken;
    }

    /// <summary>Whether a relay has a unit to take.</summary>
    internal bool HasUnitOf(int relay) => Board.HasUnitOf(relay, _mayTake);

    private int IndexOf(in ReadUnit unit)
    {
        int low = 0;
        int high = Units.Length - 1;
        while (low < high)
        {
            int middle = (low + high) / 2;
            ref readonly ReadUnit candidate = ref Units[middle];
            if (candidate.Range < unit.Range || (candidate.Range == unit.Range && candidate.OffsetInRange < unit.OffsetInRange))
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }
        return low;
    }
}

/// <summary>What one relay has of a swarm's units.</summary>
/// <param name="swarm">The swarm.</param>
/// <param name="relay">Its number in the swarm's board.</param>
/// <param name="addresses">Where it has each unit.</param>
internal sealed class RelayWork(SwarmWork swarm, int relay, ulong[] addresses) : SourceWork
{
    // Several relays are read side by side: one lane each fills the link, and what waits behind a slow one at the end is little.
    private const int Lane = 1;
    private const int TwoUnits = 8 << 20;

    internal override int MostLanes => Lane;

    internal override int MostBytesInFlight => TwoUnits;

    internal override long RemainingBytes => swarm.Board.BytesOf(relay);

    internal override bool HasUnitToTake => swarm.HasUnitOf(relay);

    internal override bool TryTake(out ReadUnit unit, out ulong address) => swarm.TryTakeFrom(relay, addresses, out unit, out address);

    internal override void GiveBack(in ReadUnit unit) => swarm.GiveBack(unit);

    internal override void Completed(in ReadUnit unit) => swarm.Completed(unit);
}
