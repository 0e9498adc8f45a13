using CheckpointEngine.Access;

namespace CheckpointEngine;

/// <summary>What a <see cref="ParameterServer"/> gives to others at a time, on each of its listeners.</summary>
/// <remarks>The sum of the connections, and some hundred more, is to be below the process's limit of open files.</remarks>
public sealed class ServerLimits
{
    /// <summary>The handshake port: a connection is one question and its answer, and may hold a megabyte. Default 512, 256 of one address.</summary>
    public ConnectionLimits Handshake { get; set; } = new(512, 256);

    /// <summary>The data port. A joiner has a few lanes; a Mooncake initiator opens one connection a request, hundreds in a batch. Default 4,096, 1,024 of one address.</summary>
    public ConnectionLimits Data { get; set; } = new(4096, 1024);

    /// <summary>The peer service over TCP, and by its number of connections alone over the Unix socket: a joiner has one conversation with each owner. Default 2,048, 512 of one address, 10,000 requests a second of one.</summary>
    public ConnectionLimits Peers { get; set; } = new(2048, 512, 10_000);

    /// <summary>The most leases at a time; default 16,384.</summary>
    public int Leases { get; set; } = 16_384;

    /// <summary>The most leases of one conversation; default 64. A joiner takes one with each owner.</summary>
    public int LeasesOfAConversation { get; set; } = 64;

    /// <summary>
    /// The most bytes that the kernel may hold for one data connection whose peer has not taken them yet; it is held to twice that, headers and padding included, and
    /// to what <c>net.core.wmem_max</c> allows. 0 (the default) for the system's own measure, which follows the distance up to <c>net.ipv4.tcp_wmem</c> (4 MiB usually).
    /// </summary>
    public int DataBytesInFlight { get; set; }

    /// <exception cref="ArgumentOutOfRangeException">A limit lets nobody in.</exception>
    internal void ThrowIfUnfit()
    {
        Handshake.ThrowIfUnfit(nameof(Handshake));
        Data.ThrowIfUnfit(nameof(Data));
        Peers.ThrowIfUnfit(nameof(Peers));
        ArgumentOutOfRangeException.ThrowIfNegative(Leases, nameof(Leases));
        ArgumentOutOfRangeException.ThrowIfNegative(LeasesOfAConversation, nameof(LeasesOfAConversation));
        ArgumentOutOfRangeException.ThrowIfNegative(DataBytesInFlight, nameof(DataBytesInFlight));
    }
}
