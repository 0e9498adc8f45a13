using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>An OpenTelemetry collector that says yes to everything and keeps it.</summary>
internal sealed class Collector : IAsyncDisposable
{
    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
    private readonly ConcurrentDictionary<string, string> _received = new();
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _accepting;

    internal Collector()
    {
        _listener.Start();
        _accepting = AcceptAsync();
    }

    internal string Url => $"http://{_listener.LocalEndpoint}";

    /// <summary>All that came to a path, as Latin-1.</summary>
    internal string Received(string path) => _received.GetValueOrDefault(path, "");

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        _listener.Dispose();
        await _accepting;
        _stop.Dispose();
    }

    private async Task AcceptAsync()
    {
        var serving = new List<Task>();
        try
        {
            while (true)
            {
                serving.Add(ServeAsync(await _listener.AcceptTcpClientAsync(_stop.Token)));
            }
        }
        catch (OperationCanceledException)
        {
            await Task.WhenAll(serving);
        }
    }

    private async Task ServeAsync(TcpClient client)
    {
        using (client)
        {
            try
            {
                NetworkStream stream = client.GetStream();
                var head = new StringBuilder();
                byte[] one = new byte[1];
                while (true)
                {
                    head.Clear();
                    while (!head.ToString().EndsWith("\r\n\r\n", StringComparison.Ordinal))
                    {
                        if (await stream.ReadAsync(one, _stop.Token) == 0)
                        {
                            return;
                        }
                        head.Append((char)one[0]);
                    }
                    string[] lines = head.ToString().Split("\r\n");
                    int length = int.Parse(lines.Single(static line => line.StartsWith("Content-Length:", StringComparison.OrdinalIgnoreCase)).Split(':')[1]);
                    byte[] body = new byte[length];
                    await stream.ReadExactlyAsync(body, _stop.Token);
                    _received.AddOrUpdate(lines[0].Split(' ')[1], Encoding.Latin1.GetString(body), (_, before) => before + Encoding.Latin1.GetString(body));
                    await stream.WriteAsync("HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"u8.ToArray(), _stop.Token);
                }
            }
            catch (Exception ended) when (ended is OperationCanceledException or IOException)
            {
                // The test is over, or the command is.
            }
        }
    }
}
