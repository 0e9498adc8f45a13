using System.Globalization;
using System.Net;
using System.Net.Sockets;

namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>Ports for tools that cannot take any free one by themselves.</summary>
internal static class LoopbackPort
{
    private const string Listening = "0A";          // TCP_LISTEN in /proc/net/tcp
    private static readonly TimeSpan s_timeToListen = TimeSpan.FromSeconds(20);

    /// <summary>A port that was free a moment ago.</summary>
    internal static int FindFree()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    /// <summary>Starts a server on a free port and waits until it listens; takes another port when somebody was faster.</summary>
    internal static (ChildProcess Server, int Port) Start(Func<int, ChildProcess> start)
    {
        for (int left = 3; ; left--)
        {
            int port = FindFree();
            ChildProcess server = start(port);
            if (SpinUntilListening(server, port))
            {
                return (server, port);
            }
            using (server)
            {
                if (left == 1)
                {
                    throw server.Failure($"nothing listens on port {port}");
                }
            }
        }
    }

    // The kernel's table: a connection made to find out would be taken for the client. What the tools print is buffered when it goes to a pipe.
    private static bool SpinUntilListening(ChildProcess server, int port)
        => SpinWait.SpinUntil(() => server.HasExited || IsListening("/proc/net/tcp", port) || IsListening("/proc/net/tcp6", port), s_timeToListen) && !server.HasExited;

    private static bool IsListening(string table, int port)
    {
        if (!File.Exists(table))
        {
            return false;
        }
        foreach (string line in File.ReadLines(table).Skip(1))
        {
            string[] fields = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);       // "0:", local address:port, remote, state
            if (fields.Length > 3 && fields[3] == Listening
                && int.TryParse(fields[1].AsSpan(fields[1].LastIndexOf(':') + 1), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out int local) && local == port)
            {
                return true;
            }
        }
        return false;
    }
}
