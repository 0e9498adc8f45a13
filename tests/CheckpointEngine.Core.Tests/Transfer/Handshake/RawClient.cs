using System.Net;
using System.Net.Sockets;

namespace CheckpointEngine.Tests;

/// <summary>A client that sends bytes as they are.</summary>
internal sealed class RawClient : IDisposable
{
    private readonly Socket _socket;

    private RawClient(Socket socket) => _socket = socket;

    internal static async Task<RawClient> ConnectAsync(IPEndPoint endPoint)
    {
        var socket = new Socket(endPoint.AddressFamily, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        await socket.ConnectAsync(endPoint, TestContext.Current.CancellationToken);
        return new RawClient(socket);
    }

    internal static async Task<byte[]> ExchangeAsync(IPEndPoint endPoint, byte[] request)
    {
        using RawClient client = await ConnectAsync(endPoint);
        await client.SendAsync(request);
        return await client.ReadToEndAsync();
    }

    internal async Task SendAsync(ReadOnlyMemory<byte> bytes) => await _socket.SendAsync(bytes, TestContext.Current.CancellationToken);

    /// <summary>Something, at least one byte.</summary>
    internal async Task<int> ReadSomeAsync() => await _socket.ReceiveAsync(new byte[1], TestContext.Current.CancellationToken);

    internal async Task<byte[]> ReadExactlyAsync(int count)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        limit.CancelAfter(TimeSpan.FromSeconds(20));
        byte[] bytes = new byte[count];
        using var stream = new NetworkStream(_socket, ownsSocket: false);
        await stream.ReadExactlyAsync(bytes, limit.Token);
        return bytes;
    }

    internal void HalfClose() => _socket.Shutdown(SocketShutdown.Send);

    /// <summary>All that comes until the other end closes, by FIN or by reset; fails after 20 s.</summary>
    internal async Task<byte[]> ReadToEndAsync()
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        limit.CancelAfter(TimeSpan.FromSeconds(20));
        var all = new MemoryStream();
        byte[] piece = new byte[4096];
        try
        {
            while (await _socket.ReceiveAsync(piece, limit.Token) is > 0 and int count)
            {
                all.Write(piece, 0, count);
            }
        }
        catch (SocketException e) when (e.SocketErrorCode is SocketError.ConnectionReset or SocketError.ConnectionAborted or SocketError.Shutdown)
        {
        }
        return all.ToArray();
    }

    public void Dispose() => _socket.Dispose();
}
