using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Tests;

/// <summary>A data port with a registry of its own.</summary>
internal sealed class DataPort : IAsyncDisposable
{
    internal DataPort(TcpDataListenerOptions? options = null, IPAddress? address = null)
        => Listener = new TcpDataListener(new IPEndPoint(address ?? IPAddress.Loopback, 0), Registry, options ?? new TcpDataListenerOptions(), NullLogger.Instance);

    internal MemoryRegistry Registry { get; } = new();

    internal TcpDataListener Listener { get; }

    internal IPEndPoint EndPoint => Listener.LocalEndPoint;

    internal TcpReadLane OpenLane(int version = 2, AccessToken? token = null, TimeSpan? stall = null) => Open(Target(EndPoint, version, true, token, stall));

    /// <summary>A connected lane; the caller disposes it.</summary>
    internal static TcpReadLane Open(TcpLaneTarget target)
    {
        var lane = new TcpReadLane(target);
        lane.Connect();
        return lane;
    }

    internal static TcpLaneTarget Target(IPEndPoint endPoint, int version, bool isOurs, AccessToken? token = null, TimeSpan? stall = null)
        => new([endPoint], "the test's peer", version, isOurs, token, TimeSpan.FromSeconds(5), stall ?? TimeSpan.FromSeconds(20));

    internal static byte[] Header(ulong length, ulong address, byte opcode)
    {
        byte[] header = new byte[DataHeader.Size];
        new DataHeader(length, address, opcode).Encode(header);
        return header;
    }

    internal static byte[] Status(ulong status, int sizeBytes = DataHeader.StatusSize)
    {
        byte[] bytes = new byte[sizeBytes];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, status);
        return bytes;
    }

    /// <summary>Sends bytes and takes what comes until the other end closes, after closing our half when asked to.</summary>
    internal async Task<byte[]> ExchangeAsync(byte[] request, bool halfClose = true)
    {
        using RawClient client = await RawClient.ConnectAsync(EndPoint);
        await client.SendAsync(request);
        if (halfClose)
        {
            client.HalfClose();
        }
        return await client.ReadToEndAsync();
    }

    public ValueTask DisposeAsync() => Listener.DisposeAsync();
}

/// <summary>A port that does with each connection what a script says, then closes it.</summary>
internal sealed class ScriptedPort : IAsyncDisposable
{
    private readonly Socket _listening = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _running;
    private int _connections;

    /// <param name="script">Gets the connection, its number from 0, and a token that ends with the port.</param>
    internal ScriptedPort(Func<NetworkStream, int, CancellationToken, Task> script)
    {
        _listening.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listening.Listen(64);
        EndPoint = (IPEndPoint)_listening.LocalEndPoint!;
        _running = RunAsync(script);
    }

    internal IPEndPoint EndPoint { get; }

    internal int Connections => Volatile.Read(ref _connections);

    /// <summary>Reads one 24-byte header.</summary>
    internal static async Task<DataHeader> ReadHeaderAsync(NetworkStream stream, CancellationToken cancellationToken)
    {
        byte[] header = new byte[DataHeader.Size];
        await stream.ReadExactlyAsync(header, cancellationToken);
        return DataHeader.Decode(header);
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        _listening.Dispose();
        await _running;
        _stop.Dispose();
    }

    private async Task RunAsync(Func<NetworkStream, int, CancellationToken, Task> script)
    {
        var connections = new List<Task>();
        while (!_stop.IsCancellationRequested)
        {
            Socket socket;
            try
            {
                socket = await _listening.AcceptAsync(_stop.Token);
            }
            catch (Exception e) when (e is OperationCanceledException or ObjectDisposedException or SocketException)
            {
                break;
            }
            connections.Add(ServeAsync(socket, Interlocked.Increment(ref _connections) - 1, script));
        }
        await Task.WhenAll(connections);
    }

    private async Task ServeAsync(Socket socket, int number, Func<NetworkStream, int, CancellationToken, Task> script)
    {
        socket.NoDelay = true;
        using var stream = new NetworkStream(socket, ownsSocket: true);
        try
        {
            await script(stream, number, _stop.Token);
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException or SocketException or OperationCanceledException)
        {
        }
    }
}
