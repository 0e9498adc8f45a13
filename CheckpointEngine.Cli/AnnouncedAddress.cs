using System.Net;
using System.Net.NetworkInformation;
using System.Net.Sockets;
using CheckpointEngine.Cli.Options;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli;

/// <summary>Finds the IP address that a holder tells others when the user named none. Asks routing tables only, never a host outside.</summary>
internal static class AnnouncedAddress
{
    /// <summary>For a holder that listens on <paramref name="listen"/> (null for a Unix socket): that address, or this host's own when it is 'any'.</summary>
    /// <exception cref="UsageException">This host has none, or several that could be meant.</exception>
    public static IPAddress OfHolder(IPAddress? listen, IReadOnlyList<string> peerUrls)
    {
        if (listen is null)
        {
            return IPAddress.Loopback;
        }
        if (!HoldingOptions.IsAny(listen))
        {
            return listen;
        }
        foreach (string url in peerUrls)
        {
            if (Uri.TryCreate(url, UriKind.Absolute, out Uri? uri) && uri.HostNameType != UriHostNameType.Unknown && uri.DnsSafeHost.Length != 0
                && OfRouteTo(uri.DnsSafeHost) is { } address)
            {
                return address;
            }
        }
        IPAddress[] own = [.. NetworkInterface.GetAllNetworkInterfaces()
            .Where(link => link.OperationalStatus == OperationalStatus.Up && link.NetworkInterfaceType != NetworkInterfaceType.Loopback)
            .SelectMany(link => link.GetIPProperties().UnicastAddresses)
            .Select(unicast => unicast.Address)
            .Where(address => address.AddressFamily == AddressFamily.InterNetwork && !IPAddress.IsLoopback(address))];
        return own.Length == 1
            ? own[0]
            : throw new UsageException(own.Length == 0
                ? "this host has no IPv4 address beside loopback; say with --address which one others read from"
                : $"this host has several addresses ({string.Join(", ", own.Take(8).Select(address => address.ToString()))}); say with --address which one others read from");
    }

    /// <summary>For a joiner: the address from which it reaches the first owner that has one; loopback when that cannot be told.</summary>
    public static IPAddress OfJoiner(CheckpointMetas metas)
    {
        foreach (MetasOwner owner in metas.Owners)
        {
            if (owner.P2pStoreAddress is { } address && address.LastIndexOf(':') is > 0 and int colon
                && OfRouteTo(address[..colon].Trim('[', ']')) is { } route)
            {
                return route;
            }
        }
        return IPAddress.Loopback;
    }

    // Connecting a datagram socket sends nothing; it makes the kernel choose the source address.
    private static IPAddress? OfRouteTo(string host)
    {
        const int AnyPort = 9;
        try
        {
            if (!IPAddress.TryParse(host, out IPAddress? target))
            {
                target = Dns.GetHostAddresses(host)[0];
            }
            using var probe = new Socket(target.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
            probe.Connect(target, AnyPort);
            return ((IPEndPoint)probe.LocalEndPoint!).Address;
        }
        catch (Exception failure) when (failure is SocketException or ArgumentException or IndexOutOfRangeException)
        {
            return null;
        }
    }
}
