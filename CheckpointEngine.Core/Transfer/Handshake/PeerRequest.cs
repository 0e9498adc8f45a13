using System.Net;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>Who asks, as far as a request tells.</summary>
/// <param name="Remote">The asker's end of the connection; an IPv4 address is one, also where it came in through IPv6.</param>
/// <param name="Protocol">
/// <see cref="SegmentDescriptor.TcpProtocol"/> or <see cref="SegmentDescriptor.RdmaProtocol"/> when the asker's own descriptor names it; null when
/// it names another or none.
/// </param>
internal readonly record struct PeerRequest(IPEndPoint Remote, string? Protocol);
