using System.Globalization;
using System.Net;
using System.Net.Sockets;

namespace CheckpointEngine.Http.Hosting;

/// <summary>One place to listen at, as the user wrote it and as the sockets need it.</summary>
internal sealed class ListenAddress
{
    private const string UnixPrefix = "unix:";

    private ListenAddress(string text, string scheme, string host, IReadOnlyList<EndPoint> endPoints)
    {
        Text = text;
        Scheme = scheme;
        Host = host;
        EndPoints = endPoints;
    }

    /// <summary>As it was written.</summary>
    internal string Text { get; }

    /// <summary><c>http</c>, <c>https</c> or <c>unix</c>.</summary>
    internal string Scheme { get; }

    /// <summary>The host as a URL has it; the path of a Unix socket.</summary>
    internal string Host { get; }

    /// <summary>What is bound: one, or all that a host name stands for.</summary>
    internal IReadOnlyList<EndPoint> EndPoints { get; }

    internal bool IsTls => Scheme == "https";

    /// <summary>Whether other hosts can reach it.</summary>
    internal bool IsReachable
    {
        get
        {
            foreach (EndPoint endPoint in EndPoints)
            {
                if (endPoint is IPEndPoint ip && !IPAddress.IsLoopback(ip.Address))
                {
                    return true;
                }
            }
            return false;
        }
    }

    /// <summary>The address to tell others, with the port that was taken.</summary>
    internal string ToText(int port) => Scheme == "unix" ? UnixPrefix + Host : $"{Scheme}://{Host}:{port.ToString(CultureInfo.InvariantCulture)}";

    /// <summary>Reads what the user wrote and looks its host name up.</summary>
    /// <exception cref="ArgumentException">It is none of the three forms.</exception>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>: the name stands for no address.</exception>
    internal static async Task<ListenAddress> ParseAsync(string text, CancellationToken cancellationToken)
    {
        if (text.StartsWith(UnixPrefix, StringComparison.Ordinal))
        {
            return ParseUnix(text);
        }
        // '*' is no host to a URL, but what everybody writes for all of this host's addresses.
        bool isAny = text.Contains("://*", StringComparison.Ordinal) || text.Contains("://+", StringComparison.Ordinal);
        string url = isAny ? text.Replace("://*", "://[::]", StringComparison.Ordinal).Replace("://+", "://[::]", StringComparison.Ordinal) : text;
        if (!Uri.TryCreate(url, UriKind.Absolute, out Uri? uri) || uri.Scheme is not ("http" or "https") || uri.PathAndQuery != "/"
            || uri.UserInfo.Length != 0 || uri.Fragment.Length != 0 || uri.Host.Length == 0)
        {
            throw new ArgumentException($"'{text}' is nothing to listen at: write http://HOST:PORT, https://HOST:PORT or unix:/PATH", nameof(text));
        }
        if (isAny && !Socket.OSSupportsIPv6)
        {
            return new ListenAddress(text, uri.Scheme, "0.0.0.0", [new IPEndPoint(IPAddress.Any, uri.Port)]);
        }
        IPAddress[] addresses = await LookUpAsync(text, uri.DnsSafeHost, cancellationToken).ConfigureAwait(false);
        // A free port is free at one address; with a port of the user's choosing the name works for every address it stands for.
        int count = uri.Port == 0 ? 1 : addresses.Length;
        EndPoint[] endPoints = new EndPoint[count];
        for (int address = 0; address < count; address++)
        {
            endPoints[address] = new IPEndPoint(addresses[address], uri.Port);
        }
        return new ListenAddress(text, uri.Scheme, uri.Host, endPoints);
    }

    private static ListenAddress ParseUnix(string text)
    {
        string path = text[UnixPrefix.Length..];
        if (path.Length == 0)
        {
            throw new ArgumentException($"'{text}' names no socket: write unix:/PATH", nameof(text));
        }
        path = Path.GetFullPath(path);
        try
        {
            return new ListenAddress(text, "unix", path, [new UnixDomainSocketEndPoint(path)]);
        }
        catch (ArgumentException tooLong)
        {
            throw new ArgumentException($"'{text}': the path of a Unix socket has at most 107 bytes, this one '{path}' does not fit", nameof(text), tooLong);
        }
    }

    private static async Task<IPAddress[]> LookUpAsync(string text, string host, CancellationToken cancellationToken)
    {
        if (IPAddress.TryParse(host, out IPAddress? literal))
        {
            return [literal];
        }
        if (host == "localhost")
        {
            return [IPAddress.Loopback];    // whatever the resolver says; many a container has ::1 in /etc/hosts and on no device
        }
        try
        {
            IPAddress[] addresses = await Dns.GetHostAddressesAsync(host, cancellationToken).ConfigureAwait(false);
            if (addresses.Length != 0)
            {
                return [.. addresses.Distinct()];
            }
        }
        catch (SocketException unknown)
        {
            throw new CheckpointEngineException(CheckpointError.NotFound, $"listen at '{text}': {unknown.Message}", 0, unknown);
        }
        throw new CheckpointEngineException(CheckpointError.NotFound, $"listen at '{text}': the name has no address");
    }
}
