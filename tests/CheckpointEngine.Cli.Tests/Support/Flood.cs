using System.Globalization;
using System.Net;
using System.Net.Sockets;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>Connections that were opened to listeners and say nothing more: every other one began something and does not go on.</summary>
/// <remarks>What a listener has closed is closed here too, or this process would have no descriptors left.</remarks>
internal sealed class Flood : IDisposable
{
    private const int AtOnce = 100;

    private readonly List<Socket> _open = [];

    private Flood()
    {
    }

    /// <summary>Connections that were opened in all.</summary>
    public int Opened { get; private set; }

    /// <summary>Connections that the listeners have not closed.</summary>
    public int Open => _open.Count;

    /// <summary>Where a process listens over TCP.</summary>
    public static IReadOnlyList<IPEndPoint> FindListeners(int process)
    {
        var sockets = Directory.GetFileSystemEntries($"/proc/{process}/fd").Select(descriptor => new FileInfo(descriptor).LinkTarget)
            .OfType<string>().Where(target => target.StartsWith("socket:[", StringComparison.Ordinal)).Select(target => target["socket:[".Length..^1]).ToHashSet();
        var found = new List<IPEndPoint>();
        foreach (string line in File.ReadLines("/proc/net/tcp").Skip(1))
        {
            string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words[3] == "0A" && sockets.Contains(words[9]))      // TCP_LISTEN
            {
                string[] local = words[1].Split(':');
                found.Add(new IPEndPoint(uint.Parse(local[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture), int.Parse(local[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture)));
            }
        }
        return found;
    }

    /// <summary>Opens as many connections to each.</summary>
    public static async Task<Flood> StartAsync(IReadOnlyList<IPEndPoint> listeners, int countOfEach)
    {
        var flood = new Flood();
        try
        {
            for (int opened = 0; opened < countOfEach; opened += AtOnce)
            {
                Socket[][] batches = await Task.WhenAll(listeners.Select(listener => OpenAsync(listener, Math.Min(AtOnce, countOfEach - opened))));
                foreach (Socket[] batch in batches)
                {
                    flood._open.AddRange(batch);
                    flood.Opened += batch.Length;
                }
                if (opened % (AtOnce * 5) == 0)
                {
                    flood.Sweep();
                }
            }
            return flood;
        }
        catch
        {
            flood.Dispose();
            throw;
        }
    }

    /// <summary>Lets go of those that the listeners have closed.</summary>
    public void Sweep() => _open.RemoveAll(socket =>
    {
        bool isClosed = socket.Poll(0, SelectMode.SelectRead) && socket.Available == 0;
        if (isClosed)
        {
            socket.Dispose();
        }
        return isClosed;
    });

    public void Dispose() => _open.ForEach(socket => socket.Dispose());

    private static async Task<Socket[]> OpenAsync(IPEndPoint listener, int count)
    {
        var sockets = new Socket[count];
        for (int i = 0; i < count; i++)
        {
            sockets[i] = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            await sockets[i].ConnectAsync(listener);
            if (i % 2 != 0)
            {
                try
                {
                    sockets[i].Send("GET"u8);
                }
                catch (SocketException)
                {
                    // It was closed already.
                }
            }
        }
        return sockets;
    }
}
