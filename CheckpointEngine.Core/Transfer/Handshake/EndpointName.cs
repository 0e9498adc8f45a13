using System.Buffers;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>The name of a Mooncake segment in P2PHANDSHAKE mode: host and port of its owner's handshake port.</summary>
/// <param name="Host">IPv4 or IPv6 address, the latter without brackets, or a DNS name; as it was given.</param>
/// <param name="Port">TCP port, 1 to 65535.</param>
/// <remarks>Nothing here resolves or connects. Source: docs/mooncake-wire.md.</remarks>
internal readonly record struct EndpointName(string Host, int Port)
{
    /// <summary>The port of a name that gives none.</summary>
    internal const int DefaultPort = 12001;

    // The longest DNS name has 253 characters; the longest name then needs ":65535" as well.
    private const int MaxHostLength = 253;
    private const int MaxNameLength = MaxHostLength + 8;

    private static readonly SearchValues<char> s_inIPv6
        = SearchValues.Create("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:.%-_");

    private bool IsIPv6 => Host is not null && Host.Contains(':');

    /// <summary>The name of an address and port.</summary>
    internal static EndpointName FromEndPoint(IPEndPoint endPoint) => new(endPoint.Address.ToString(), endPoint.Port);

    /// <summary>
    /// Reads <c>[v6]:port</c>, <c>[v6]</c>, a bare IPv6 address (all of it, no port), or host and port split at the last colon; without a port
    /// it is <see cref="DefaultPort"/>.
    /// </summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: the name, the place and the reason.</exception>
    internal static EndpointName Parse(ReadOnlySpan<char> text)
    {
        string? reason = Read(text, out EndpointName name, out int offset);
        if (reason is not null)
        {
            ThrowHelper.ThrowInvalidData($"endpoint name '{HandshakeJson.Printable(text)}'", offset, reason);
        }
        return name;
    }

    /// <summary>As <see cref="Parse"/>; false instead of an exception.</summary>
    internal static bool TryParse(ReadOnlySpan<char> text, out EndpointName name) => Read(text, out name, out _) is null;

    /// <summary><c>host:port</c>, an IPv6 host in square brackets.</summary>
    public override string ToString()
        => (IsIPv6 ? $"[{Host}]:" : $"{Host}:") + Port.ToString(CultureInfo.InvariantCulture);

    private static string? Read(ReadOnlySpan<char> text, out EndpointName name, out int offset)
    {
        name = default;
        offset = 0;
        if (text.IsEmpty)
        {
            return "empty; host:port is needed";
        }
        if (text.Length > MaxNameLength)
        {
            offset = MaxNameLength;
            return $"longer than {MaxNameLength} characters";
        }
        ReadOnlySpan<char> host = text;
        ReadOnlySpan<char> port = default;
        int portOffset = -1;
        bool bracketed = text[0] == '[';
        if (bracketed)
        {
            int close = text.IndexOf(']');
            if (close < 0)
            {
                offset = text.Length;
                return "no ] after [";
            }
            host = text[1..close];
            portOffset = close + 1 < text.Length ? close + 2 : -1;
            if (portOffset >= 0 && text[close + 1] != ':')
            {
                offset = close + 1;
                return "something other than :port after ]";
            }
        }
        else if (!IsIPv6Text(text) && text.LastIndexOf(':') is >= 0 and int colon)
        {
            host = text[..colon];
            portOffset = colon + 1;
        }
        if (portOffset >= 0)
        {
            port = text[portOffset..];
        }
        offset = bracketed ? 1 : 0;
        if (bracketed || host.Contains(':') ? !IsIPv6Text(host) : !IsPlainHost(host, ref offset))
        {
            return bracketed || host.Contains(':') ? "not an IPv6 address" : "not a host name or address";
        }
        int portNumber = DefaultPort;
        if (portOffset >= 0
            && (!int.TryParse(port, NumberStyles.None, CultureInfo.InvariantCulture, out portNumber) || portNumber is < 1 or > IPEndPoint.MaxPort))
        {
            offset = portOffset;
            return "the port is not a number from 1 to 65535";
        }
        name = new EndpointName(host.ToString(), portNumber);
        return null;
    }

    // TryParse alone would take brackets and a port as part of an address, and anything at all as the name of a zone.
    private static bool IsIPv6Text(ReadOnlySpan<char> text)
        => text.Length <= MaxHostLength && !text.ContainsAnyExcept(s_inIPv6) && text.Contains(':')
            && IPAddress.TryParse(text, out IPAddress? address) && address.AddressFamily == AddressFamily.InterNetworkV6;

    private static bool IsPlainHost(ReadOnlySpan<char> host, ref int offset)
    {
        for (int i = 0; i < host.Length; i++)
        {
            if (!char.IsAsciiLetterOrDigit(host[i]) && host[i] is not ('-' or '.' or '_'))
            {
                offset += i;
                return false;
            }
        }
        return !host.IsEmpty && host.Length <= MaxHostLength;
    }
}
