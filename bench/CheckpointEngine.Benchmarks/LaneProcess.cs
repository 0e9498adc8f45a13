using System.Diagnostics;
using System.Globalization;
using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Benchmarks;

/// <summary>
/// The TCP plane alone as two processes, like <c>bench/pump/pump.c</c>: <c>lane-serve BYTES</c> prints its port and an address and serves until its
/// stdin ends; <c>lane-read PORT ADDRESS BLOCK BYTES LANES ROUNDS</c> prints the seconds of each round after one that does not count.
/// </summary>
/// <remarks>
/// A block is read again and again, out of one buffer and into one of its size (one for each lane), as many in flight as a join has. A block of
/// more than 4 MiB goes in requests of that size, as a join asks for them.
/// </remarks>
internal static unsafe class LaneProcess
{
    private const int LargestRequestBytes = 4 << 20;
    private const int MaxLanes = 64;
    private static readonly TimeSpan s_timeout = TimeSpan.FromSeconds(10);

    /// <summary>Runs if the arguments are its own.</summary>
    /// <returns>The exit status; null when they are not.</returns>
    internal static int? TryRun(string[] args)
    {
        CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
        switch (args)
        {
            case ["lane-serve", string bytes] when long.TryParse(bytes, out long length) && length > 0:
                Serve(length);
                return 0;
            case ["lane-read", string portText, string addressText, string blockText, string bytesText, string lanesText, string roundsText]
                when int.TryParse(portText, out int port) && ulong.TryParse(addressText, out ulong address) && long.TryParse(blockText, out long block)
                    && long.TryParse(bytesText, out long all) && int.TryParse(lanesText, out int lanes) && int.TryParse(roundsText, out int rounds)
                    && lanes is >= 1 and <= MaxLanes && block >= 1 && all >= lanes:
                Read(new IPEndPoint(IPAddress.Loopback, port), address, block, all / lanes, lanes, rounds);
                return 0;
            default:
                return null;
        }
    }

    private static void Serve(long lengthBytes)
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(lengthBytes);
        Touch(source, 1);
        var registry = new MemoryRegistry();
        registry.Register(source, (ulong)source.Address, (ulong)source.LengthBytes);
        var listener = new TcpDataListener(new IPEndPoint(IPAddress.Loopback, 0), registry, new TcpDataListenerOptions(), NullLogger.Instance);
        Console.WriteLine($"{listener.LocalEndPoint.Port} {source.Address}");
        while (Console.In.Read() >= 0)
        {
        }
        listener.DisposeAsync().AsTask().GetAwaiter().GetResult();
    }

    private static void Read(IPEndPoint endPoint, ulong address, long block, long bytesOfLane, int laneCount, int rounds)
    {
        block = Math.Min(block, bytesOfLane);
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(block * laneCount);
        Touch(destination, 2);
        var lanes = new TcpReadLane[laneCount];
        for (int i = 0; i < laneCount; i++)
        {
            lanes[i] = new TcpReadLane(new TcpLaneTarget([endPoint], "benchmark", ProtocolVersion: 2, IsOurs: true, Token: null, s_timeout, s_timeout));
            lanes[i].Connect();
        }
        for (int round = 0; round <= rounds; round++)
        {
            var threads = new Thread[laneCount - 1];
            long start = Stopwatch.GetTimestamp();
            for (int i = 1; i < laneCount; i++)
            {
                int index = i;
                threads[i - 1] = new Thread(() => ReadAll(index));
                threads[i - 1].Start();
            }
            ReadAll(0);
            foreach (Thread thread in threads)
            {
                thread.Join();
            }
            if (round != 0)
            {
                Console.WriteLine($"{Stopwatch.GetElapsedTime(start).TotalSeconds:0.000000}");
            }
        }
        foreach (TcpReadLane lane in lanes)
        {
            lane.Dispose();
        }

        void ReadAll(int index)
            => ReadBlocks(lanes[index], address + (ulong)(index * block), destination.Address + (nint)(index * block), block, bytesOfLane);
    }

    private static void ReadBlocks(TcpReadLane lane, ulong address, nint destination, long block, long bytes)
    {
        long submitted = 0;
        long done = 0;
        int inFlight = 0;
        while (submitted < bytes || inFlight != 0)
        {
            while (submitted < bytes && inFlight < lane.QueueDepth && submitted - done < lane.QueueBytes)
            {
                long inBlock = submitted % block;
                int length = (int)Math.Min(LargestRequestBytes, Math.Min(block - inBlock, bytes - submitted));
                lane.Submit(new ReadRequest(address + (ulong)inBlock, destination + (nint)inBlock, length, length));
                submitted += length;
                inFlight++;
            }
            ReadCompletion completion = lane.Wait(null);
            done += completion.Tag;
            if (completion.Status != ReadStatus.Done)
            {
                throw new InvalidOperationException("a read failed");
            }
            inFlight--;
        }
    }

    private static void Touch(MemoryBuffer buffer, byte value)
    {
        for (long at = 0; at < buffer.LengthBytes; at += LargestRequestBytes)
        {
            new Span<byte>((byte*)buffer.Address + at, (int)Math.Min(LargestRequestBytes, buffer.LengthBytes - at)).Fill(value);
        }
    }
}
