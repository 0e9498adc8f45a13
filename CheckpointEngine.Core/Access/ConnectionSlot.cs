using System.Net;

namespace CheckpointEngine.Access;

/// <summary>A connection's place among those of its listener (<see cref="ConnectionLimiter"/>).</summary>
/// <remarks>Any number of threads. Dispose gives the place back.</remarks>
public sealed class ConnectionSlot : IDisposable
{
    private readonly ConnectionLimiter _limiter;

    internal ConnectionSlot(ConnectionLimiter limiter, ConnectionLimiter.Client client, IPAddress? address, Action displace)
    {
        _limiter = limiter;
        Client = client;
        Address = address;
        Displace = displace;
        Node = new LinkedListNode<ConnectionSlot>(this);
        NodeOfClient = new LinkedListNode<ConnectionSlot>(this);
    }

    /// <summary>Where it comes from; null over a Unix socket.</summary>
    public IPAddress? Address { get; }

    /// <summary>The connections of its address. Under the limiter's lock, as all that follows.</summary>
    internal ConnectionLimiter.Client Client { get; }

    internal Action Displace { get; }

    internal LinkedListNode<ConnectionSlot> Node { get; }

    internal LinkedListNode<ConnectionSlot> NodeOfClient { get; }

    internal int Requests { get; set; }

    internal bool HasLeft { get; set; }

    /// <summary>It is of use now (it has shown what it must, or a request of it is under way) and gives way to nobody until <see cref="EndUse"/> was called as often.</summary>
    public void BeginUse() => _limiter.BeginUse(this);

    /// <summary>It waits for its peer again, and gives way to a newcomer when there is no room.</summary>
    public void EndUse() => _limiter.EndUse(this);

    /// <summary>Counts one request of its address.</summary>
    /// <returns>How long the request is to wait; null when it is to be refused.</returns>
    public TimeSpan? TakeRequest() => _limiter.TakeRequest(Client);

    /// <inheritdoc/>
    public void Dispose() => _limiter.Leave(this);
}
