using System.Net;
using System.Net.Sockets;
using BenchmarkDotNet.Attributes;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Benchmarks;

/// <summary>
/// Reads of 4 MiB over the loopback, as a join makes them (four in flight), beside two bare sockets that ask for and send the same. Both ends are
/// in this process: 0 bytes allocated means 0 on either side.
/// </summary>
[InvocationCount(256)]      // 4,096 reads: what the thread pool allocates now and then (4 KiB seen) comes to a byte a read
public unsafe class TcpLaneBenchmarks
{
    private const int ReadBytes = 4 << 20;
    private const int Reads = 16;
    private const int CallBytes = 1 << 20;

    private MemoryBuffer? _source;
    private MemoryBuffer? _destination;
    private TcpDataListener? _listener;
    private TcpReadLane? _lane;
    private Socket? _pump;

    [GlobalSetup]
    public void Setup()
    {
        _source = MemoryBuffer.AllocateAnonymous(ReadBytes * Reads);
        _destination = MemoryBuffer.AllocateAnonymous(ReadBytes * Reads);
        new Span<byte>((void*)_source.Address, ReadBytes * Reads).Fill(1);
        new Span<byte>((void*)_destination.Address, ReadBytes * Reads).Fill(2);

        var registry = new MemoryRegistry();
        registry.Register(_source, (ulong)_source.Address, (ulong)_source.LengthBytes);
        _listener = new TcpDataListener(new IPEndPoint(IPAddress.Loopback, 0), registry, new TcpDataListenerOptions(), NullLogger.Instance);
        _lane = new TcpReadLane(new TcpLaneTarget([_listener.LocalEndPoint], "benchmark", ProtocolVersion: 2, IsOurs: true, Token: null,
            TimeSpan.FromSeconds(5), TimeSpan.FromSeconds(5)));
        _lane.Connect();

        using Socket listener = SocketTools.Listen(new IPEndPoint(IPAddress.Loopback, 0), 1);
        SocketTools.PreferPlainCongestionControl(listener);
        _pump = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        _pump.Connect(listener.LocalEndPoint!);
        Socket sender = listener.Accept();
        new Thread(() => Pump(sender, _source)) { IsBackground = true }.Start();
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        _lane?.Dispose();
        _pump?.Dispose();
        _listener?.DisposeAsync().AsTask().GetAwaiter().GetResult();
        _destination?.Dispose();          // the source stays: the pump's thread may still be in its last call
    }

    [Benchmark(Baseline = true, OperationsPerInvoke = Reads)]
    public void BarePump()
    {
        Span<byte> ask = stackalloc byte[1];
        _pump!.Send(ask);
        Span<byte> left = new((void*)_destination!.Address, ReadBytes * Reads);
        while (left.Length != 0)
        {
            int received = _pump.Receive(left[..Math.Min(left.Length, CallBytes)]);
            left = left[received..];
        }
    }

    [Benchmark(OperationsPerInvoke = Reads)]
    public void Lane()
    {
        int submitted = 0;
        for (int done = 0; done < Reads; done++)
        {
            while (submitted < Reads && submitted - done < _lane!.QueueDepth)
            {
                _lane.Submit(new ReadRequest((ulong)_source!.Address + (ulong)(submitted * ReadBytes), _destination!.Address + (submitted * ReadBytes), ReadBytes, submitted));
                submitted++;
            }
            if (_lane!.Wait(null).Status != ReadStatus.Done)
            {
                throw new InvalidOperationException("a read failed");
            }
        }
    }

    // For each byte that is asked, all of the source.
    private static void Pump(Socket socket, MemoryBuffer source)
    {
        Span<byte> ask = stackalloc byte[1];
        try
        {
            while (socket.Receive(ask) != 0)
            {
                ReadOnlySpan<byte> left = new((void*)source.Address, ReadBytes * Reads);
                while (left.Length != 0)
                {
                    left = left[socket.Send(left[..Math.Min(left.Length, CallBytes)])..];
                }
            }
        }
        catch (SocketException)
        {
            // The benchmark is over.
        }
        socket.Dispose();
    }
}
