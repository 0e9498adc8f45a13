using System.Buffers;
using System.Diagnostics.Metrics;
using System.Globalization;
using System.Net;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Benchmarks;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Join;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer.Local;
using Microsoft.Win32.SafeHandles;
using CheckpointEngine.Planning;
using CheckpointEngine.Relay;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.AllocationTests;

/// <summary>Each measurement warms up, then counts what its thread, or the whole process, allocates over many operations.</summary>
internal static class Program
{
    private const int UnitBytes = 1 << 20;

    private static int s_passed;
    private static int s_failed;

    private static int Main()
    {
        MeasureLane(version: 2, unitBytes: UnitBytes, operations: 2000);
        MeasureLane(version: 1, unitBytes: 4096, operations: 20_000);
        using (var certificate = new LoopbackCertificate())
        {
            MeasureLane(version: 2, unitBytes: UnitBytes, operations: 2000, certificate);
            MeasureLane(version: 2, unitBytes: 4096, operations: 20_000, certificate);
        }
        MeasureLocalLanes();
        MeasureVerifier(DigestAlgorithm.Xxh3);
        MeasureVerifier(DigestAlgorithm.Sha256);
        MeasureLookUps();
        MeasureCursor();
        MeasureSwarm();
        MeasureLaneCounts();
        MeasureMetas();
        BucketCallbackMeasurement.Run(Report);
        Console.WriteLine($"{s_passed} passed, {s_failed} failed, 0 skipped");
        return s_failed == 0 ? 0 : 1;
    }

    private static void MeasureLane(int version, int unitBytes, int operations, LoopbackCertificate? certificate = null)
    {
        using var source = MemoryBuffer.AllocateAnonymous(16 << 20);
        using var destination = MemoryBuffer.AllocateAnonymous(16 << 20);
        var registry = new MemoryRegistry();
        registry.Register(source, (ulong)source.Address, (ulong)source.LengthBytes);
        using IConnectionSecurity? security = certificate?.Server.Open(NullLogger.Instance);
        var listener = new TcpDataListener(new IPEndPoint(IPAddress.Loopback, 0), registry, new TcpDataListenerOptions { Security = security }, NullLogger.Instance);
        var target = new TcpLaneTarget([listener.LocalEndPoint], "measured", version, IsOurs: true, null, TimeSpan.FromSeconds(5), TimeSpan.FromSeconds(30)) { Tls = certificate?.Client, TlsHost = "127.0.0.1" };
        using (IReadLane lane = new TcpReadLane(target))
        {
            lane.Connect();
            Pump(operations);                              // warm-up: sockets, pools, state machines
            long process = GC.GetTotalAllocatedBytes(precise: true);
            long thread = GC.GetAllocatedBytesForCurrentThread();
            Pump(operations);
            thread = GC.GetAllocatedBytesForCurrentThread() - thread;
            process = GC.GetTotalAllocatedBytes(precise: true) - process;
            string within = certificate is null ? "" : ", within TLS";
            Report($"lane thread, version {version}{within}, {unitBytes:N0} bytes a read", thread, operations, 0);
            Report($"lane and data port, whole process, version {version}{within}, {unitBytes:N0} bytes a read", process, operations, 8);

            void Pump(int count)
            {
                int submitted = 0;
                int done = 0;
                while (done < count)
                {
                    while (submitted < count && submitted - done < lane.QueueDepth)
                    {
                        int slot = submitted % 4 * unitBytes;
                        lane.Submit(new ReadRequest((ulong)(source.Address + slot), destination.Address + slot, unitBytes, submitted % 4));
                        submitted++;
                    }
                    if (lane.Wait(null).Status != ReadStatus.Done)
                    {
                        throw new InvalidOperationException("a read failed");
                    }
                    done++;
                }
            }
        }
        listener.DisposeAsync().AsTask().GetAwaiter().GetResult();
    }

    // Out of a file by pread, out of a process, and out of a mapping.
    private static void MeasureLocalLane(string what, MemoryBuffer source)
    {
        const int Reads = 4096;
        const int ReadBytes = 1 << 20;
        using var destination = MemoryBuffer.AllocateAnonymous(ReadBytes);
        bool hasFile = source.FileDescriptor is not null;
        var answer = new MemoryAnswer(hasFile ? MemoryAccess.Attach : MemoryAccess.Process, (ulong)source.Address, (ulong)source.LengthBytes, 0);
        SafeFileHandle? file = hasFile ? File.OpenHandle($"/proc/self/fd/{source.FileDescriptor!.DangerousGetHandle()}") : null;
        using LocalMemory memory = LocalMemory.Of(LocalSegment.Open(answer, file, new PeerCredentials(Environment.ProcessId, 0), attachFiles: false));
        memory.Map(all: false);
        using IReadLane lane = new LocalReadLane(memory);
        lane.Connect();
        Pump();
        long before = GC.GetAllocatedBytesForCurrentThread();
        Pump();
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Report($"local lane out of {what}", allocated, Reads, 0);

        void Pump()
        {
            for (int i = 0; i < Reads; i++)
            {
                lane.Submit(new ReadRequest((ulong)source.Address + (ulong)(i % 8) * ReadBytes, destination.Address, ReadBytes, 0));
                if (lane.Wait(null).Status != ReadStatus.Done)
                {
                    throw new InvalidOperationException("a read failed");
                }
            }
        }
    }

    private static void MeasureLocalLanes()
    {
        using var anonymous = MemoryBuffer.AllocateAnonymous(8 << 20);
        MeasureLocalLane("a process", anonymous);
        using var frozen = MemoryBuffer.AllocateMemfd(8 << 20, "measured");
        frozen.Freeze();
        MeasureLocalLane("a mapping", frozen);
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(path, new byte[8 << 20]);
            using var mapped = MemoryBuffer.MapFile(path);
            MeasureLocalLane("a file", mapped);
        }
        finally
        {
            File.Delete(path);
        }
    }

    private static void MeasureVerifier(DigestAlgorithm algorithm)
    {
        CheckpointMetas metas = Sample(tensors: 2000, digest: algorithm);
        TransferPlan plan = TransferPlanner.Plan(metas, TensorFilter.All);
        DigestVerifier verifier = new(plan, [algorithm]);
        byte[] bytes = new byte[TensorDigest.ChunkBytes];
        CheckAll(plan, verifier, bytes);
        long before = GC.GetAllocatedBytesForCurrentThread();
        int units = CheckAll(plan, verifier, bytes);
        long bytesAllocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Report($"DigestVerifier.Advance, {DigestNames.ToWord(algorithm)}", bytesAllocated, units, 0);
    }

    // Every unit comes in two pieces, as from a lane that tells of its progress.
    private static unsafe int CheckAll(TransferPlan plan, DigestVerifier verifier, byte[] bytes)
    {
        int units = 0;
        var cursor = new ReadUnitCursor(plan, 0);
        fixed (byte* start = bytes)
        {
            while (cursor.TryTake(out ReadUnit unit))
            {
                var check = default(UnitCheck);
                verifier.Advance(ref check, unit, start, unit.LengthBytes / 2);
                verifier.Advance(ref check, unit, start, unit.LengthBytes);
                units++;
            }
        }
        return units;
    }

    private static long Walk(TransferPlan plan, Action<ReadUnit> action)
    {
        long units = 0;
        var cursor = new ReadUnitCursor(plan, 0);
        while (cursor.TryTake(out ReadUnit unit))
        {
            action(unit);
            units++;
        }
        return units;
    }

    private static void MeasureLookUps()
    {
        CheckpointMetas metas = Sample(tensors: 10_000, DigestAlgorithm.None);
        byte[][] names = [.. Enumerable.Range(0, 10_000).Select(tensor => Encoding.UTF8.GetBytes(metas.Tensors.GetName(tensor)))];
        Measure("TensorTable.IndexOf", 100_000, i =>
        {
            if (metas.Tensors.IndexOf(names[i % names.Length]) != i % names.Length)
            {
                throw new InvalidOperationException("another tensor");
            }
        });

        using MemoryBuffer nobody = MemoryBuffer.AllocateAnonymous(4096);
        var registry = new MemoryRegistry();
        for (ulong i = 1; i <= 1000; i++)
        {
            registry.Register(nobody, i * 8192, 4096);
        }
        Measure("MemoryRegistry.TryBeginRead", 100_000, i =>
        {
            if (!registry.TryBeginRead((ulong)(i % 1000 + 1) * 8192 + 5, 100, out RegisteredRange? range) || registry.TryBeginRead((ulong)(i % 1000 + 1) * 8192 + 4000, 100, out _))
            {
                throw new InvalidOperationException("another answer");
            }
            range.EndRead();
        });
    }

    private static void MeasureCursor()
    {
        TransferPlan plan = TransferPlanner.Plan(Sample(tensors: 10_000, DigestAlgorithm.None), TensorFilter.All);
        var work = new OwnerWork(plan, 0, new NullDestination());
        var cursor = new ReadUnitCursor(plan, 0);
        cursor.TryTake(out ReadUnit unit);
        work.TryTake(out unit);
        work.GiveBack(unit);
        work.TryTake(out unit);
        long before = GC.GetAllocatedBytesForCurrentThread();
        int units = 0;
        while (cursor.TryTake(out unit))
        {
            units++;
        }
        while (work.TryTake(out unit))
        {
            work.GiveBack(unit);
            work.TryTake(out unit);
        }
        Report("ReadUnitCursor and OwnerWork", GC.GetAllocatedBytesForCurrentThread() - before, units, 0);
    }

    private static void MeasureSwarm()
    {
        TransferPlan plan = TransferPlanner.Plan(Sample(tensors: 10_000, DigestAlgorithm.None), TensorFilter.All);
        var destination = new NullDestination();
        var work = new SwarmWork(plan, 0, SwarmUnits.Cut(plan, 0)!, destination, new DigestVerifier(plan, [DigestAlgorithm.None]));
        int[] all = [.. Enumerable.Range(0, work.Units.Length)];
        work.Board.Give(all.AsSpan(0, all.Length / 2));
        int number = work.Board.AddRelay();
        work.Board.RelayHas(number, all);
        var relay = new RelayWork(work, number, Array.ConvertAll(all, unit => (ulong)unit + 1));
        Take(work);
        Take(relay);
        long before = GC.GetAllocatedBytesForCurrentThread();
        int units = 0;
        while (work.RemainingBytes != 0)
        {
            units += Take(relay) ? 1 : 0;
            units += Take(work) ? 1 : 0;
        }
        Report("SwarmWork and RelayWork", GC.GetAllocatedBytesForCurrentThread() - before, units, 0);

        static bool Take(SourceWork source)
        {
            if (!source.TryTake(out ReadUnit unit, out _))
            {
                return false;
            }
            source.Completed(unit);
            return true;
        }
    }

    // While somebody listens, as always while it serves; every unit is told at once here, not every sixteenth.
    private static void MeasureLaneCounts()
    {
        const int UnitBytes = 64 << 20;
        long heard = 0;
        using var listener = new MeterListener();
        listener.InstrumentPublished = static (instrument, listening) =>
        {
            if (instrument.Meter.Name == EngineTelemetry.MeterName)
            {
                listening.EnableMeasurementEvents(instrument);
            }
        };
        listener.SetMeasurementEventCallback<long>((_, value, _, _) => heard += value);
        listener.Start();
        using IReadLane lane = new TcpReadLane(new TcpLaneTarget([new IPEndPoint(IPAddress.Loopback, 1)], "measured", 2, IsOurs: true, null, TimeSpan.FromSeconds(5), TimeSpan.FromSeconds(30)));
        var counts = new LaneCounts();
        Measure("LaneCounts with a listener", 100_000, _ => counts.Add(lane, UnitBytes));
        if (heard < 200_000L * UnitBytes)
        {
            throw new InvalidOperationException("the listener heard too little");
        }
    }

    private static void MeasureMetas()
    {
        const int Tensors = 100_000;
        var json = new ArrayBufferWriter<byte>();
        MetasJsonWriter.Write(Sample(Tensors, DigestAlgorithm.Xxh3), json);
        MetasJsonReader.Read(json.WrittenSpan);
        long before = GC.GetAllocatedBytesForCurrentThread();
        CheckpointMetas metas = MetasJsonReader.Read(json.WrittenSpan);
        long bytes = GC.GetAllocatedBytesForCurrentThread() - before;
        int names = Enumerable.Range(0, Tensors).Sum(tensor => metas.Tensors.GetNameUtf8(tensor).Length);
        // Its name, and in columns: name end, type, shape, slot, offset, digest and its kind; nothing that is thrown away.
        Report($"metas from JSON, {(double)names / Tensors:0.0} bytes of name a tensor", bytes, Tensors, (double)names / Tensors + 64);
    }

    private static CheckpointMetas Sample(int tensors, DigestAlgorithm digest)
    {
        using var builder = new CheckpointMetasBuilder();
        long size = 0;
        byte[] root = new byte[digest.DigestBytes()];
        for (int tensor = 0; tensor < tensors; tensor++)
        {
            long length = tensor % 100 == 0 ? (4 << 20) + 3 : 1024 + tensor % 7;
            long slot = (length + 255) / 256 * 256;
            builder.AddTensor(Encoding.UTF8.GetBytes($"model.layers.{tensor / 100}.experts.{tensor % 100}.weight"), TensorDtype.U8, [length], slot);
            builder.SetDigest(digest, root);
            size += slot;
        }
        builder.EndBuffer(0x7f00_0000_0000, size);
        builder.EndOwner(0, "127.0.0.1:12001", "");
        return builder.Build();
    }

    private static void Measure(string what, int operations, Action<int> operation)
    {
        for (int i = 0; i < operations; i++)
        {
            operation(i);
        }
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < operations; i++)
        {
            operation(i);
        }
        Report(what, GC.GetAllocatedBytesForCurrentThread() - before, operations, 0);
    }

    private static void Report(string what, long bytes, int operations, double mostPerOperation)
    {
        bool good = bytes <= mostPerOperation * operations;
        _ = good ? s_passed++ : s_failed++;
        string line = string.Create(CultureInfo.InvariantCulture,
            $"{(good ? "ok  " : "FAIL")} {what}: {bytes:N0} bytes in {operations:N0} operations, {(double)bytes / operations:0.###} each, {mostPerOperation:0.#} allowed");
        Console.WriteLine(line);
    }
}
