using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Checkpoints;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>
/// What it costs to hold a checkpoint: mapped in place; copied from the page cache, beside memcpy into equally fresh memory; copied from a disk,
/// beside plain reads of the same files. Everything alternates within a pass; a ratio is the median of the passes' own ratios.
/// </summary>
internal static partial class Registration
{
    private const int PieceBytes = 8 << 20;
    private const long MappedGib = 8;
    private const int MapRuns = 11;
    private const int Alignment = 4096;
    // Both sides have the same threads and wait for nothing, so on a shared machine only the processor's time compares them; and of that the best of
    // each, since what a virtual machine's host does to fresh memory (it brings the pages at their first touch) slows a sample tenfold, never speeds it.
    private const string ByProcessor = " pass by pass; the best of each by processor time";

    private const int O_DIRECT = 0x4000;
    private const int O_CLOEXEC = 0x80000;
    private const int DontNeed = 4;         // POSIX_FADV_DONTNEED

    internal static async Task RunAsync(Workbench bench, Scoreboard scoreboard)
    {
        await MapAsync(bench, scoreboard);
        Copy(bench, scoreboard, "tmpfs", bench.GetCheckpoint(), HoldMode.Anonymous, HoldMode.Memfd);
        FromDisk(bench, scoreboard);
    }

    private static async Task MapAsync(Workbench bench, Scoreboard scoreboard)
    {
        string path = Path.Combine(bench.ScratchDirectory, "mapped.safetensors");
        WriteAllocated(path, MappedGib << 30);
        var milliseconds = new List<double>();
        await using var server = new ParameterServer(new ParameterServerOptions { Pin = PinMode.None, Digest = DigestAlgorithm.None });
        await server.StartAsync();
        for (int run = 0; run <= MapRuns; run++)
        {
            long begin = Stopwatch.GetTimestamp();
            await server.RegisterAsync("mapped", [path]);
            if (run != 0)               // the first compiles
            {
                milliseconds.Add(Stopwatch.GetElapsedTime(begin).TotalMilliseconds);
            }
            await server.UnregisterAsync("mapped");
        }
        File.Delete(path);
        scoreboard.Below($"{MappedGib} GiB in tmpfs mapped in place, locking and digests apart", Statistics.Median(milliseconds), 5, "ms",
            $"median of {MapRuns}, {Statistics.Range(milliseconds, "0.00")}");
    }

    private static void Copy(Workbench bench, Scoreboard scoreboard, string where, string checkpoint, params ReadOnlySpan<HoldMode> modes)
    {
        using HeldCheckpoint warm = CheckpointLoader.Load("warm", checkpoint, HoldMode.Anonymous, PinMode.None);
        foreach (HoldMode mode in modes)
        {
            string kind = mode == HoldMode.Memfd ? "memfd" : "anon";
            var rates = new Samples(warm.DataBytes);
            for (int pass = -1; pass < bench.Options.Passes; pass++)
            {
                (string Name, Action Step)[] steps =
                [
                    ("memcpy out of warm memory", () => MemcpyFresh(warm, mode)),
                    ("memcpy out of the files, mapped", () => MapAndMemcpyFresh(checkpoint, mode)),
                    ("copied", () => CheckpointLoader.Load("copy", checkpoint, mode, PinMode.None).Dispose()),
                    ("copied and hashed", () => RegisterAndRelease(checkpoint, mode)),
                ];
                rates.Take(steps, pass);
            }
            rates.Note(scoreboard, $"{where} into fresh {kind}: ");
            scoreboard.AtLeast($"copied / memcpy out of the files, {where}, {kind}", rates.Ratio("copied", "memcpy out of the files, mapped", out string range, byProcessor: true), 0.85, range + ByProcessor);
            scoreboard.AtLeast($"copied and hashed / copied, {where}, {kind}", rates.Ratio("copied and hashed", "copied", out range, byProcessor: true), 0.74, range + ByProcessor);
        }
    }

    private static void FromDisk(Workbench bench, Scoreboard scoreboard)
    {
        string directory = Directory.CreateTempSubdirectory("checkpoint-engine-bench.").FullName;
        try
        {
            var files = new List<string>();
            foreach (string file in Directory.GetFiles(bench.GetCheckpoint(), "*.safetensors"))
            {
                files.Add(Path.Combine(directory, Path.GetFileName(file)));
                File.Copy(file, files[^1]);
            }
            Copy(bench, scoreboard, "page cache", directory, HoldMode.Anonymous);
            if (!files.TrueForAll(Drop))
            {
                scoreboard.Note("from a cold disk", "skipped", $"the page cache keeps the files of {directory}; name a directory on a disk in TMPDIR");
                return;
            }
            long bytes = files.Sum(file => new FileInfo(file).Length);
            var rates = new Samples(bytes);
            for (int pass = -1; pass < bench.Options.Passes; pass++)
            {
                (string Name, Action Step)[] steps =
                [
                    ("pread, one thread", () => PreadFresh(files)),
                    ("O_DIRECT, one thread", () => ReadDirect(files)),
                    ("copied", () => CheckpointLoader.LoadFiles("copy", files, HoldMode.Anonymous, PinMode.None).Dispose()),
                    ("copied and hashed", () => RegisterAndRelease(directory, HoldMode.Anonymous)),
                ];
                rates.Take(steps, pass, before: () => files.ForEach(file => Drop(file)));
            }
            rates.Note(scoreboard, "cold disk: ");
            scoreboard.AtLeast("copied / pread, cold disk", rates.Ratio("copied", "pread, one thread", out string range), 1, range);
            scoreboard.AtLeast("copied / O_DIRECT, cold disk", rates.Ratio("copied", "O_DIRECT, one thread", out range), 0.95, range);
            scoreboard.AtLeast("copied and hashed / copied, cold disk", rates.Ratio("copied and hashed", "copied", out range), 0.74, range);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    private static void RegisterAndRelease(string checkpoint, HoldMode mode)
    {
        var server = new ParameterServer(new ParameterServerOptions { Hold = mode, Pin = PinMode.None, Digest = DigestAlgorithm.Xxh3 });
        server.RegisterAsync("copy", [checkpoint]).GetAwaiter().GetResult();
        server.DisposeAsync().AsTask().GetAwaiter().GetResult();
    }

    // As many threads as the copy has, pieces of the same size.
    private static unsafe void MemcpyFresh(HeldCheckpoint source, HoldMode mode)
    {
        foreach (HeldBuffer buffer in source.Buffers.ToArray())
        {
            using MemoryBuffer fresh = mode == HoldMode.Memfd ? MemoryBuffer.AllocateMemfd(buffer.SizeBytes, "fresh") : MemoryBuffer.AllocateAnonymous(buffer.SizeBytes);
            long next = -PieceBytes;
            InThreads(Math.Min(Environment.ProcessorCount, 8), () =>
            {
                for (long at; (at = Interlocked.Add(ref next, PieceBytes)) < buffer.SizeBytes;)
                {
                    memcpy((byte*)fresh.Address + at, (byte*)buffer.Address + at, (nuint)Math.Min(PieceBytes, buffer.SizeBytes - at));
                }
            });
        }
    }

    // What a loader without reads does: the mapping's own page tables are part of it.
    private static void MapAndMemcpyFresh(string checkpoint, HoldMode mode)
    {
        using HeldCheckpoint mapped = CheckpointLoader.Load("mapped", checkpoint, HoldMode.Map, PinMode.None);
        MemcpyFresh(mapped, mode);
    }

    private static void PreadFresh(List<string> files)
    {
        foreach (string file in files)
        {
            using SafeFileHandle handle = File.OpenHandle(file);
            using MemoryBuffer fresh = MemoryBuffer.AllocateAnonymous(RandomAccess.GetLength(handle));
            for (long at = 0; at < fresh.LengthBytes;)
            {
                at += RandomAccess.Read(handle, fresh.GetSpan(at, (int)Math.Min(PieceBytes, fresh.LengthBytes - at)), at);
            }
        }
    }

    // As dd bs=8M iflag=direct of=/dev/null: the bytes come and go nowhere.
    private static unsafe void ReadDirect(List<string> files)
    {
        byte* block = (byte*)NativeMemory.AlignedAlloc(PieceBytes, Alignment);
        foreach (string file in files)
        {
            using var handle = new SafeFileHandle(open(file, O_DIRECT | O_CLOEXEC), ownsHandle: true);
            if (handle.IsInvalid)
            {
                throw new BenchmarkFailedException($"{file} cannot be read past the page cache; name a directory on a disk in TMPDIR");
            }
            for (long at = 0; RandomAccess.Read(handle, new Span<byte>(block, PieceBytes), at) is > 0 and int read;)
            {
                at += read;
            }
        }
        NativeMemory.AlignedFree(block);
    }

    private static void InThreads(int count, Action work)
    {
        Thread[] threads = [.. Enumerable.Range(0, count).Select(_ => new Thread(() => work()))];
        Array.ForEach(threads, thread => thread.Start());
        Array.ForEach(threads, thread => thread.Join());
    }

    // A header, and data that has pages and no content.
    private static void WriteAllocated(string path, long dataBytes)
    {
        byte[] header = Encoding.ASCII.GetBytes($"{{\"w\":{{\"dtype\":\"U8\",\"shape\":[{dataBytes}],\"data_offsets\":[0,{dataBytes}]}}}}");
        using SafeFileHandle file = File.OpenHandle(path, FileMode.Create, FileAccess.Write);
        RandomAccess.Write(file, BitConverter.GetBytes((long)header.Length), 0);
        RandomAccess.Write(file, header, 8);
        if (posix_fallocate(file, 0, 8 + header.Length + dataBytes) != 0)
        {
            throw new BenchmarkFailedException($"{path}: there is no room for {dataBytes:N0} bytes");
        }
    }

    private static unsafe bool Drop(string path)
    {
        using SafeFileHandle file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite);
        RandomAccess.FlushToDisk(file);
        _ = posix_fadvise(file, 0, 0, DontNeed);
        byte probe;
        var vector = new IoVector { Address = &probe, Length = 1 };
        const int NoWait = 8;
        return preadv2(file, &vector, 1, RandomAccess.GetLength(file) / 2, NoWait) < 0;
    }

    private sealed class Samples(long bytes)
    {
        private readonly List<(string Name, List<(double Elapsed, double Processor)> Rates)> _rates = [];

        internal void Take((string Name, Action Step)[] steps, int pass, Action? before = null)
        {
            // Every other pass backwards, so that nothing always comes behind the same thing; the pass before the first compiles and warms up.
            foreach ((string name, Action step) in pass % 2 == 0 ? steps : steps.Reverse())
            {
                before?.Invoke();
                TimeSpan processor = Environment.CpuUsage.TotalTime;
                long begin = Stopwatch.GetTimestamp();
                step();
                TimeSpan elapsed = Stopwatch.GetElapsedTime(begin);
                processor = Environment.CpuUsage.TotalTime - processor;
                if (pass >= 0)
                {
                    Of(name).Add((ToRate(elapsed), ToRate(processor)));
                }
            }
        }

        internal void Note(Scoreboard scoreboard, string prefix)
        {
            foreach ((string name, List<(double Elapsed, double Processor)> rates) in _rates)
            {
                double[] elapsed = [.. rates.Select(rate => rate.Elapsed)];
                scoreboard.Note(prefix + name, $"{Statistics.Median(elapsed):0.00} GiB/s",
                    $"{Statistics.Range(elapsed, "0.00")}; {Statistics.Median(rates.Select(rate => rate.Processor)):0.00} per second of a core");
            }
        }

        internal double Ratio(string ours, string limit, out string range, bool byProcessor = false)
        {
            double[] ratios = [.. Of(ours).Zip(Of(limit), (a, b) => byProcessor ? a.Processor / b.Processor : a.Elapsed / b.Elapsed)];
            range = Statistics.Range(ratios, "0.00");
            return byProcessor ? Of(ours).Max(rate => rate.Processor) / Of(limit).Max(rate => rate.Processor) : Statistics.Median(ratios);
        }

        private double ToRate(TimeSpan time) => bytes / time.TotalSeconds / (1L << 30);

        private List<(double Elapsed, double Processor)> Of(string name)
        {
            if (_rates.Find(entry => entry.Name == name).Rates is not { } rates)
            {
                _rates.Add((name, rates = []));
            }
            return rates;
        }
    }

    [StructLayout(LayoutKind.Sequential)]
    private unsafe struct IoVector
    {
        internal void* Address;
        internal nuint Length;
    }

    [LibraryImport("libc")]
    private static unsafe partial void* memcpy(void* to, void* from, nuint length);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags);

    [LibraryImport("libc")]
    private static partial int posix_fadvise(SafeFileHandle file, long offset, long length, int advice);

    [LibraryImport("libc")]
    private static partial int posix_fallocate(SafeFileHandle file, long offset, long length);

    [LibraryImport("libc")]
    private static unsafe partial nint preadv2(SafeFileHandle file, IoVector* vectors, int count, long offset, int flags);
}
