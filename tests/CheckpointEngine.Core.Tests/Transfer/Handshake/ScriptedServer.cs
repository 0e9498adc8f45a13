using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

/// <summary>A handshake port that reads one frame a connection and then does what a script says.</summary>
internal sealed class ScriptedServer : IAsyncDisposable
{
    private readonly Socket _listening = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
    private readonly CancellationTokenSource _stop = new();
    private readonly Func<NetworkStream, int, CancellationToken, Task> _script;
    private readonly Task _running;
    private int _connections;

    /// <param name="script">Gets the connection after its request was read, its number from 0, and a token that ends with the server.</param>
    internal ScriptedServer(Func<NetworkStream, int, CancellationToken, Task> script)
    {
        _script = script;
        _listening.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listening.Listen(16);
        EndPoint = (IPEndPoint)_listening.LocalEndPoint!;
        _running = RunAsync();
    }

    /// <summary>A server that answers every connection with the same bytes and waits for the client's close.</summary>
    internal static ScriptedServer Replying(params byte[][] replies) => new(async (stream, number, token) =>
        await stream.WriteAsync(replies[Math.Min(number, replies.Length - 1)], token));

    internal IPEndPoint EndPoint { get; }

    internal EndpointName Name => EndpointName.FromEndPoint(EndPoint);

    internal int Connections => Volatile.Read(ref _connections);

    internal ConcurrentQueue<byte[]> Requests { get; } = [];

    /// <summary>One entry for each connection that the client closed without sending more.</summary>
    internal SemaphoreSlim ClosedByClient { get; } = new(0);

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        _listening.Dispose();
        await _running;
        _stop.Dispose();
        ClosedByClient.Dispose();
    }

    private async Task RunAsync()
    {
        try
        {
            while (true)
            {
                using Socket socket = await _listening.AcceptAsync(_stop.Token);
                int number = Interlocked.Increment(ref _connections) - 1;
                using var stream = new NetworkStream(socket, ownsSocket: false);
                try
                {
                    byte[] length = new byte[8];
                    await stream.ReadExactlyAsync(length, _stop.Token);
                    byte[] rest = new byte[BinaryPrimitives.ReadInt64LittleEndian(length)];
                    await stream.ReadExactlyAsync(rest, _stop.Token);
                    Requests.Enqueue([.. length, .. rest]);
                    await _script(stream, number, _stop.Token);
                    if (await stream.ReadAsync(new byte[1], _stop.Token) == 0)
                    {
                        ClosedByClient.Release();
                    }
                }
                catch (Exception e) when (e is IOException or ObjectDisposedException or SocketException)
                {
                }
            }
        }
        catch (Exception e) when (e is OperationCanceledException or ObjectDisposedException || (e is SocketException && _stop.IsCancellationRequested))
        {
        }
    }
}
