namespace CheckpointEngine.Access;

/// <summary>What a listener has of connections and requests at a time.</summary>
/// <param name="Connections">The most connections.</param>
/// <param name="ConnectionsOfAnAddress">The most of one address (of IPv6: of one /64, which is what one subscriber has).</param>
/// <param name="RequestsPerSecond">The most requests of one address in a second, all its connections together; 0 for any number. Who asks for more waits, up to five seconds, and is then refused.</param>
public sealed record ConnectionLimits(int Connections, int ConnectionsOfAnAddress, int RequestsPerSecond = 0)
{
    private const int LeastBacklog = 128;

    /// <summary>How many connections may wait to be accepted, for listen(2).</summary>
    /// <remarks>
    /// Half of those that are let in: a queue that is taken at once then displaces nobody whose first word is still to be read. Who finds it full tries again a
    /// whole second later, so it should not be shorter.
    /// </remarks>
    public int Backlog => Math.Max(LeastBacklog, Connections / 2);

    /// <summary>Throws when they let nobody in.</summary>
    /// <exception cref="ArgumentOutOfRangeException">A limit on connections is below 1, or one on requests below 0.</exception>
    internal void ThrowIfUnfit(string parameter)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(Connections, 1, parameter);
        ArgumentOutOfRangeException.ThrowIfLessThan(ConnectionsOfAnAddress, 1, parameter);
        ArgumentOutOfRangeException.ThrowIfNegative(RequestsPerSecond, parameter);
    }
}
