namespace CheckpointEngine.Relay;

/// <summary>A peer's seat in a swarm, and the generation that it is of. Dispose leaves it.</summary>
internal sealed class SwarmPlace(SwarmTable table, Swarm.Seat seat) : IDisposable
{
    /// <summary>Answers what the peer asks; null when the generation is gone.</summary>
    internal SwarmAnswer? Ask(in SwarmRequest request) => table.IsClosed ? null : seat.Ask(request, SwarmTable.Now);

    public void Dispose() => seat.Dispose();
}
