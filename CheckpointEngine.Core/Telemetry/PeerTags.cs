using System.Net;

namespace CheckpointEngine.Telemetry;

/// <summary>What peers are called in metrics: the first of them by their address, all that come later <c>other</c>, so that strangers cannot make series without end.</summary>
/// <remarks>One thread at a time.</remarks>
internal sealed class PeerTags
{
    /// <summary>The most peers with a name of their own.</summary>
    internal const int MostPeers = 64;

    private const string Other = "other";

    private readonly Dictionary<IPAddress, string> _names = [];

    /// <summary>The name of a peer, from its first connection on the same.</summary>
    internal string NameOf(IPAddress peer)
    {
        if (_names.TryGetValue(peer, out string? name))
        {
            return name;
        }
        if (_names.Count == MostPeers)
        {
            return Other;
        }
        name = (peer.IsIPv4MappedToIPv6 ? peer.MapToIPv4() : peer).ToString();
        _names.Add(peer, name);
        return name;
    }
}
