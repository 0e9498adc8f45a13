using System.Net;

namespace CheckpointEngine.Access;

/// <summary>Which addresses may read without our own handshake: plain Mooncake peers know nothing of tokens.</summary>
/// <remarks>Immutable; any number of threads.</remarks>
public sealed class PlainPeers
{
    private readonly IPNetwork[] _networks;

    private PlainPeers(IPNetwork[] networks) => _networks = networks;

    /// <summary>Nobody.</summary>
    public static PlainPeers None { get; } = new([]);

    /// <summary>Everybody.</summary>
    public static PlainPeers All { get; } = new([IPNetwork.Parse("0.0.0.0/0"), IPNetwork.Parse("::/0")]);

    /// <summary>Whether the user listed networks, and did not say all or none.</summary>
    internal bool IsList => this != None && this != All;

    /// <summary>Reads <c>none</c>, <c>all</c>, or networks and addresses separated by commas (<c>10.0.0.0/8,192.168.1.7</c>).</summary>
    /// <exception cref="FormatException">An entry is no network and no address.</exception>
    public static PlainPeers Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return text switch
        {
            "none" => None,
            "all" => All,
            _ => new([.. text.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries).Select(ParseNetwork)]),
        };
    }

    /// <summary>Whether <paramref name="address"/> may read plainly; an IPv4 address that came over an IPv6 socket counts as IPv4.</summary>
    public bool Allows(IPAddress address)
    {
        ArgumentNullException.ThrowIfNull(address);
        IPAddress plain = address.IsIPv4MappedToIPv6 ? address.MapToIPv4() : address;
        foreach (IPNetwork network in _networks)
        {
            if (network.Contains(plain))
            {
                return true;
            }
        }
        return false;
    }

    private static IPNetwork ParseNetwork(string entry)
    {
        if (IPNetwork.TryParse(entry, out IPNetwork network))
        {
            return network;
        }
        return IPAddress.TryParse(entry, out IPAddress? address)
            ? new IPNetwork(address, address.GetAddressBytes().Length * 8)
            : throw new FormatException($"'{entry}' is no IP network (10.0.0.0/8) and no address; 'none' and 'all' stand alone");
    }
}
