using System.Diagnostics;
using System.Globalization;
using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Mooncake;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Benchmarks;

/// <summary>
/// A lane through Mooncake's library alone, for the comparison that CheckpointEngine.ProcessBenchmarks makes: <c>mooncake-read SEGMENT ADDRESS BYTES</c>
/// opens the segment once and then measures a line of stdin at a time: <c>BLOCK COUNT DEPTH</c> prints the seconds of so many reads.
/// </summary>
internal static class MooncakeLaneProcess
{
    /// <summary>Runs if the arguments are its own.</summary>
    /// <returns>The exit status; null when they are not.</returns>
    internal static int? TryRun(string[] args)
    {
        CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
        if (args is not ["mooncake-read", string segment, string addressText, string bytesText] || !ulong.TryParse(addressText, out ulong address) || !long.TryParse(bytesText, out long length))
        {
            return null;
        }
        using MooncakeEngine engine = MooncakeEngine.StartAsync(null, IPAddress.Loopback, NullLogger.Instance, CancellationToken.None).GetAwaiter().GetResult();
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(length);
        destination.GetSpan(0, checked((int)length)).Fill(1);
        MooncakeOwner owner = MooncakeOwner.OpenAsync(engine, EndpointName.Parse(segment), [(address, (ulong)length)], HandshakeClientOptions.Default,
            TimeSpan.FromSeconds(30), CancellationToken.None).GetAwaiter().GetResult();
        using var lane = new MooncakeReadLane(owner);
        lane.Connect();
        using IDisposable? registered = lane.Prepare(destination.Address, length);
        Read(lane, address, destination.Address, 64 << 10, 2000, 16);       // code is compiled
        Console.WriteLine("ready");
        while (Console.ReadLine()?.Split(' ') is [string block, string count, string depth])
        {
            long start = Stopwatch.GetTimestamp();
            Read(lane, address, destination.Address, int.Parse(block), int.Parse(count), int.Parse(depth));
            Console.WriteLine($"{Stopwatch.GetElapsedTime(start).TotalSeconds:0.000000}");
        }
        return 0;
    }

    // As many in flight as in a batch of the C program, and of the same blocks.
    private static void Read(MooncakeReadLane lane, ulong address, nint destination, int block, int count, int depth)
    {
        int submitted = 0;
        for (int done = 0; done < count; done++)
        {
            while (submitted < count && submitted - done < depth)
            {
                int at = submitted++ % depth * block;
                lane.Submit(new ReadRequest(address + (ulong)at, destination + at, block, 0));
            }
            if (lane.Wait(null).Status != ReadStatus.Done)
            {
                throw new InvalidOperationException($"a read failed: {lane.Failure}");
            }
        }
    }
}
