using System.Diagnostics;
using System.Globalization;
using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Benchmarks;

/// <summary>
/// The RDMA plane alone as two processes, for <c>bench/rdma/perftest.py</c>: <c>rdma-serve BYTES DEVICES HOST</c> prints its segment and an address and
/// serves until its stdin ends; <c>rdma-read SEGMENT ADDRESS BYTES DEVICES</c> connects its lanes once and then measures a line of stdin at a time:
/// <c>bw BLOCK TOTAL</c> prints seconds, <c>lat BLOCK COUNT</c> the median of single reads in microseconds.
/// </summary>
internal static unsafe class RdmaLaneProcess
{
    private const int LargestRequestBytes = 4 << 20;
    private const int WarmRounds = 10;
    private const int Rounds = 20;
    private static readonly TimeSpan s_stall = TimeSpan.FromSeconds(30);

    /// <summary>Runs if the arguments are its own.</summary>
    /// <returns>The exit status; null when they are not.</returns>
    internal static int? TryRun(string[] args)
    {
        CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
        switch (args)
        {
            case ["rdma-serve", string bytes, string devices, string host] when long.TryParse(bytes, out long length) && IPAddress.TryParse(host, out IPAddress? address):
                Serve(length, devices, address);
                return 0;
            case ["rdma-read", string segment, string addressText, string bytes, string devices]
                when ulong.TryParse(addressText, out ulong address) && long.TryParse(bytes, out long length):
                Read(segment, address, length, devices);
                return 0;
            default:
                return null;
        }
    }

    private static void Serve(long lengthBytes, string devices, IPAddress host)
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(lengthBytes);
        new Span<byte>((void*)source.Address, checked((int)lengthBytes)).Fill(1);
        var server = new ParameterServer(new ParameterServerOptions { Address = host, Transport = TransportChoice.Rdma, RdmaDevices = devices, Digest = DigestAlgorithm.None });
        server.StartAsync().GetAwaiter().GetResult();
        using var tensors = new CallerTensors();
        tensors.Add("t", TensorDtype.U8, [lengthBytes], source.Address);
        server.RegisterTensors("bench", tensors);
        Console.WriteLine($"{server.P2pStoreAddress} {source.Address}");
        while (Console.In.Read() >= 0)
        {
        }
        server.DisposeAsync().AsTask().GetAwaiter().GetResult();
    }

    private static void Read(string segment, ulong address, long lengthBytes, string devices)
    {
        EndpointName name = EndpointName.Parse(segment);
        RdmaPlane plane = RdmaPlane.TryOpen(devices, NullLogger.Instance, out string? whyNone) ?? throw new InvalidOperationException(whyNone);
        SegmentDescriptor descriptor = HandshakeClient.FetchDescriptorAsync(name, "{\"protocol\":\"rdma\"}"u8.ToArray()).AsTask().GetAwaiter().GetResult();
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(lengthBytes);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        memory.Add(destination.Address, lengthBytes);
        RdmaOwner owner = RdmaOwner.Make(plane, memory, name, isOurs: true, descriptor, s_stall, NullLogger.Instance);
        RdmaReadLane[] lanes = [];
        var together = new List<double>();
        var verbs = new List<double>();
        var exchange = new List<double>();
        var own = new List<double>();
        var user = new List<double>();
        for (int round = 0; round < WarmRounds + Rounds; round++)       // code is compiled in the first ones
        {
            Array.ForEach(lanes, static lane => lane.Dispose());
            lanes = [.. Enumerable.Range(0, owner.Preferred).Select(_ => owner.TryMakeLane()!)];
            TimeSpan worked = Process.GetCurrentProcess().UserProcessorTime;
            long start = Stopwatch.GetTimestamp();
            if (round % 2 == 0)
            {
                Thread[] threads = [.. lanes.Select(lane => new Thread(lane.Connect))];
                Array.ForEach(threads, static thread => thread.Start());
                Array.ForEach(threads, static thread => thread.Join());
                Note(round, together, Stopwatch.GetElapsedTime(start));
            }
            else
            {
                // One after the other, so that no lane's time has another's in it.
                Array.ForEach(lanes, static lane => lane.Connect());
                TimeSpan all = Stopwatch.GetElapsedTime(start);
                var inVerbs = new TimeSpan(lanes.Sum(lane => lane.VerbsTime.Ticks));
                var inExchange = new TimeSpan(lanes.Sum(lane => lane.ExchangeTime.Ticks));
                Note(round, verbs, inVerbs);
                Note(round, exchange, inExchange);
                Note(round, own, all - inVerbs - inExchange);
            }
            Note(round, user, Process.GetCurrentProcess().UserProcessorTime - worked);
        }
        Console.WriteLine($"{lanes.Length} lanes connect together in {Median(together)} ms; one by one {Median(verbs)} in verbs and kernel, {Median(exchange)} in exchanges with the owner, "
            + $"{Median(own)} in the rest; {user.Average():0.0} ms of user processor time on the average");
        using var laneThreads = new LaneThreads(lanes.Length);
        while (Console.ReadLine()?.Split(' ') is [string what, string blockText, string countText])
        {
            int block = int.Parse(blockText);
            long count = long.Parse(countText);
            Console.WriteLine(what == "lat"
                ? $"{Latency(lanes[0], address, destination.Address, block, (int)count):0.000}"
                : $"{Bandwidth(laneThreads, lanes, address, destination.Address, lengthBytes, block, count):0.000000}");
        }
        Array.ForEach(lanes, static lane => lane.Dispose());
    }

    private static void Note(int round, List<double> samples, TimeSpan time)
    {
        if (round >= WarmRounds)
        {
            samples.Add(time.TotalMilliseconds);
        }
    }

    private static string Median(List<double> samples)
    {
        samples.Sort();
        return $"{samples[samples.Count / 2]:0.0} ({samples[0]:0.0} to {samples[^1]:0.0})";
    }

    private static double Bandwidth(LaneThreads threads, RdmaReadLane[] lanes, ulong address, nint destination, long lengthBytes, int block, long total)
    {
        long share = total / lanes.Length / block * block;
        long part = lengthBytes / lanes.Length / block * block;
        long start = Stopwatch.GetTimestamp();
        threads.Run(i => ReadBlocks(lanes[i], address + (ulong)(i * part), destination + (nint)(i * part), part, block, share));
        return Stopwatch.GetElapsedTime(start).TotalSeconds * total / (share * lanes.Length);
    }

    private static void ReadBlocks(RdmaReadLane lane, ulong address, nint destination, long partBytes, int block, long bytes)
    {
        int request = Math.Min(block, LargestRequestBytes);
        long submitted = 0;
        long done = 0;
        int inFlight = 0;
        while (done < bytes)
        {
            while (submitted < bytes && inFlight < lane.QueueDepth && submitted - done < lane.QueueBytes)
            {
                long at = submitted % partBytes;
                lane.Submit(new ReadRequest(address + (ulong)at, destination + (nint)at, request, 0));
                submitted += request;
                inFlight++;
            }
            if (lane.Wait(null).Status != ReadStatus.Done)
            {
                throw new InvalidOperationException($"a read failed: {lane.Failure}");
            }
            done += request;
            inFlight--;
        }
    }

    private static double Latency(RdmaReadLane lane, ulong address, nint destination, int block, int count)
    {
        double[] microseconds = new double[count];
        for (int i = 0; i < count; i++)
        {
            long start = Stopwatch.GetTimestamp();
            lane.Submit(new ReadRequest(address, destination, block, 0));
            if (lane.Wait(null).Status != ReadStatus.Done)
            {
                throw new InvalidOperationException($"a read failed: {lane.Failure}");
            }
            microseconds[i] = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
        }
        Array.Sort(microseconds);
        return microseconds[count / 2];
    }

    // A thread takes longer to start in an emulated guest than a megabyte to read, and perftest's run before it looks at the clock.
    private sealed class LaneThreads : IDisposable
    {
        private readonly Barrier _together;
        private Action<int>? _work;

        internal LaneThreads(int count)
        {
            _together = new Barrier(count + 1);
            for (int i = 0; i < count; i++)
            {
                int lane = i;
                new Thread(() => RunLane(lane)) { IsBackground = true }.Start();
            }
        }

        /// <summary>Does something for every lane at the same time, each on its thread.</summary>
        internal void Run(Action<int> work)
        {
            _work = work;
            _together.SignalAndWait();
            _together.SignalAndWait();
        }

        public void Dispose()
        {
            _work = null;
            _together.SignalAndWait();
        }

        private void RunLane(int lane)
        {
            while (true)
            {
                _together.SignalAndWait();
                if (_work is null)
                {
                    return;
                }
                _work(lane);
                _together.SignalAndWait();
            }
        }
    }
}
