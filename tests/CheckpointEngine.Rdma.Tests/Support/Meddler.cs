using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Rdma.Tests.Support;

/// <summary>Stands before a handshake port and passes everything on, but for another LID in what one side says of its queue pairs.</summary>
internal sealed class Meddler : IAsyncDisposable
{
    private readonly TcpListener _listener;
    private readonly EndpointName _target;
    private readonly bool _ofAsker;
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _accepting;

    public Meddler(EndpointName target, bool ofAsker)
    {
        (_target, _ofAsker) = (target, ofAsker);
        _listener = new TcpListener(IPAddress.Parse(target.Host), 0);
        _listener.Start();
        _accepting = AcceptAsync();
    }

    /// <summary>host:port.</summary>
    public string Address => _listener.LocalEndpoint.ToString()!;

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        _listener.Dispose();
        await _accepting.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        _stop.Dispose();
    }

    private async Task AcceptAsync()
    {
        while (true)
        {
            TcpClient asker = await _listener.AcceptTcpClientAsync(_stop.Token);
            _ = ServeAsync(asker);
        }
    }

    private async Task ServeAsync(TcpClient asker)
    {
        try
        {
            using (asker)
            using (var target = new TcpClient())
            {
                await target.ConnectAsync(_target.Host, _target.Port, _stop.Token);
                await Task.WhenAll(PassOnAsync(asker, target, _ofAsker), PassOnAsync(target, asker, !_ofAsker));
            }
        }
        catch (Exception ended) when (ended is IOException or SocketException or OperationCanceledException)
        {
            // One of the two has closed.
        }
    }

    // Messages that connect are short: each comes in one piece.
    private async Task PassOnAsync(TcpClient from, TcpClient to, bool meddles)
    {
        byte[] buffer = new byte[1 << 16];
        int count;
        while ((count = await from.GetStream().ReadAsync(buffer, _stop.Token)) != 0)
        {
            int at = meddles && buffer.AsSpan(0, count).IndexOf("qp_num"u8) >= 0 ? buffer.AsSpan(0, count).IndexOf("\"local_lid\":0"u8) : -1;
            if (at >= 0)
            {
                buffer[at + "\"local_lid\":".Length] = (byte)'1';
            }
            await to.GetStream().WriteAsync(buffer.AsMemory(0, count), _stop.Token);
        }
        to.Client.Shutdown(SocketShutdown.Send);
    }
}
