using System.Buffers;
using System.ComponentModel;
using System.Diagnostics;
using System.IO.MemoryMappedFiles;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text.Json;
using CheckpointEngine.Inference;
using CheckpointEngine.Interop;
using CheckpointEngine.Metas.Pickle;

namespace CheckpointEngine.Tests.Inference;

/// <summary>GPU memory for updates: what needs no GPU, and on a host that has one the real thing.</summary>
public sealed unsafe class CudaUpdateTests
{
    private const long HalfBytes = 256 << 20;

    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(120);

    [Fact]
    public void Structs_AreAsInC()
    {
        Assert.Equal(16, Unsafe.SizeOf<LibCuda.Uuid>());
        Assert.Equal(64, Unsafe.SizeOf<LibCuda.IpcMemHandle>());
    }

    [Theory]
    [InlineData(false, "GPU-00112233-4455-6677-8899-aabbccddeeff")]
    [InlineData(true, "MIG-00112233-4455-6677-8899-aabbccddeeff")]
    public void Uuid_IsAsServersWriteIt(bool isPart, string expected)
    {
        var uuid = MemoryMarshal.Read<LibCuda.Uuid>(Convert.FromHexString("00112233445566778899aabbccddeeff"));
        Assert.Equal(expected, CudaDevices.FormatUuid(uuid, isPart));
    }

    [Fact]
    public void Parts_AreKnownByTheirNames()
    {
        Assert.True(CudaDevices.IsPart("NVIDIA A100-SXM4-40GB MIG 1g.5gb"));
        Assert.False(CudaDevices.IsPart("NVIDIA H100 80GB HBM3"));
    }

    [Fact]
    public void Make_WithoutADevice_SaysWhyAndWhatToDo()
    {
        if (CudaDevices.IsSupported(out string? reason))
        {
            Assert.Skip("this host has a GPU");
        }
        var failure = Assert.Throws<CheckpointEngineException>(() => UpdateDevices.Make(UpdateDeviceKind.Cuda, 1));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
        Assert.Contains(reason!, failure.Message, StringComparison.Ordinal);
        Assert.Contains("--engine vllm-files", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Make_AutoWithoutADevice_IsHostMemory()
    {
        if (CudaDevices.IsSupported(out _))
        {
            Assert.Skip("this host has a GPU");
        }
        IUpdateDevice[] devices = UpdateDevices.Make(UpdateDeviceKind.Auto, 2);
        Assert.Equal(["HOST-0", "HOST-1"], devices.Select(device => device.Uuid));
        Array.ForEach(devices, device => device.Dispose());
    }

    // Every byte once, in order, and cut at borders of pages alone: two threads must not want one page.
    [Theory]
    [InlineData(0, 1)]
    [InlineData(100, 4096)]
    [InlineData(4095, (64L << 20) + 2)]
    [InlineData(0, 64L << 20)]
    [InlineData(0, 128L << 20)]
    [InlineData(17, (200L << 20) + 4000)]
    [InlineData(4000, (64L << 20) + 100)]
    public void Cut_AnyRun_IsWholeAndMeetsAtPages(long offset, long bytes)
    {
        nint start = (nint)(0x7000_0000_0000 + offset);
        (nint Start, long Bytes)[] pieces = [.. CudaHostPins.Cut(start, bytes)];
        Assert.Equal(start, pieces[0].Start);
        Assert.Equal(bytes, pieces.Sum(piece => piece.Bytes));
        for (int i = 1; i < pieces.Length; i++)
        {
            Assert.Equal(pieces[i - 1].Start + (nint)pieces[i - 1].Bytes, pieces[i].Start);
            Assert.Equal(0, pieces[i].Start % Environment.SystemPageSize);
        }
        Assert.All(pieces, piece => Assert.InRange(piece.Bytes, 1, (64 << 20) + Environment.SystemPageSize));
    }

    [Fact]
    public void Handle_InPython_IsWhatReduceTensorGives()
    {
        byte[] handle = RandomNumberGenerator.GetBytes(64);
        var message = new ArrayBufferWriter<byte>();
        using (var pickle = new PickleWriter(message, 4))
        {
            CudaUpdateBuffer.WriteHandle(pickle, handle, 2UL * HalfBytes, 3);
            pickle.Stop();
        }
        using JsonDocument said = RunPython(message.WrittenMemory, "describe");
        JsonElement root = said.RootElement;
        Assert.True(root.GetProperty("function").GetBoolean());
        Assert.Equal(15, root.GetProperty("args").GetInt32());
        Assert.True(root.GetProperty("size").GetBoolean());
        Assert.Equal(["type", "Size", "tuple", "int", "type", "str", "int", "bytes", "int", "int", "bool", "bytes", "int", "bytes", "bool"],
            root.GetProperty("types").EnumerateArray().Select(type => type.GetString()!));
        JsonElement values = root.GetProperty("values");
        Assert.Equal("class Tensor", values.GetProperty("tensor_cls").GetString());
        Assert.Equal($"[{2 * HalfBytes}]", values.GetProperty("tensor_size").GetRawText());
        Assert.Equal("[1]", values.GetProperty("tensor_stride").GetRawText());
        Assert.Equal(0, values.GetProperty("tensor_offset").GetInt32());
        Assert.Equal("class TypedStorage", values.GetProperty("storage_cls").GetString());
        Assert.Equal("torch.uint8", values.GetProperty("dtype").GetString());
        Assert.Equal(3, values.GetProperty("storage_device").GetInt32());
        Assert.Equal(Convert.ToHexStringLower(handle), values.GetProperty("storage_handle").GetString());
        Assert.Equal(2 * HalfBytes, values.GetProperty("storage_size_bytes").GetInt64());
        Assert.Equal(0, values.GetProperty("storage_offset_bytes").GetInt32());
        Assert.False(values.GetProperty("requires_grad").GetBoolean());
        byte[] counter = Convert.FromHexString(values.GetProperty("ref_counter_handle").GetString()!);
        Assert.Equal((byte)'/', counter[0]);        // shm_open's form; nothing is there
        Assert.False(File.Exists("/dev/shm" + System.Text.Encoding.ASCII.GetString(counter)));
        Assert.Equal(128, values.GetProperty("event_handle").GetString()!.Length);
        Assert.False(values.GetProperty("event_sync_required").GetBoolean());
    }

    [Fact]
    public void Make_MoreThanThereAre_NamesBothCounts()
    {
        NeedGpu();
        int visible = CountGpus();
        var failure = Assert.Throws<CheckpointEngineException>(() => UpdateDevices.Make(UpdateDeviceKind.Cuda, visible + 1));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
        Assert.Contains($"{visible + 1} workers", failure.Message, StringComparison.Ordinal);
        Assert.Contains($"sees {visible}", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Allocate_MoreThanThereIs_IsOutOfMemory()
    {
        NeedGpu();
        IUpdateDevice[] devices = UpdateDevices.Make(UpdateDeviceKind.Cuda, 1);
        using IUpdateDevice device = devices[0];
        long free = device.FreeBytes;
        Assert.Equal(CheckpointError.OutOfMemory, Assert.Throws<CheckpointEngineException>(() => device.AllocateBuffer(free)).Error);
        Assert.InRange(device.FreeBytes, free - (64 << 20), long.MaxValue);
    }

    [Fact]
    public void Copy_EveryDevice_HasTheBytesAndAnotherProcessSeesThem()
    {
        NeedGpu();
        int visible = CountGpus();
        IUpdateDevice[] devices = UpdateDevices.Make(UpdateDeviceKind.Cuda, visible);
        byte* source = Map(HalfBytes);
        long freeBefore = devices[0].FreeBytes;
        try
        {
            RandomNumberGenerator.Fill(new Span<byte>(source, (int)HalfBytes));
            UpdatePiece[] pieces = Pieces((nint)source, HalfBytes);
            IUpdateBuffer[] buffers = Array.ConvertAll(devices, device => device.AllocateBuffer(HalfBytes));
            for (int round = 0; round < 4; round++)         // the first of them pins
            {
                long start = Stopwatch.GetTimestamp();
                foreach (IUpdateBuffer buffer in buffers)
                {
                    buffer.BeginCopy(round & 1, pieces);
                }
                for (int i = 0; i < buffers.Length; i++)
                {
                    Say($"round {round}, {devices[i].Uuid}: {HalfBytes / 1e9 / buffers[i].Synchronize(round & 1):0.0} GB/s");
                }
                Say($"round {round}: {HalfBytes / 1e9 / Stopwatch.GetElapsedTime(start).TotalSeconds:0.0} GB/s to each of {visible}");
            }
            for (int i = 0; i < buffers.Length; i++)
            {
                var buffer = (CudaUpdateBuffer)buffers[i];
                Assert.False(buffer.IsStaged);
                AssertHas(buffer, 0, pieces);
                AssertHas(buffer, 1, pieces);
                var message = new ArrayBufferWriter<byte>();
                UpdateMessages.WriteHandle(message, buffer);
                using JsonDocument seen = RunPython(message.WrittenMemory, "open", $"{pieces[0].Bytes}");
                Assert.Equal(Convert.ToHexStringLower(SHA256.HashData(new ReadOnlySpan<byte>((void*)pieces[0].Source, (int)pieces[0].Bytes))), seen.RootElement.GetProperty("sha256").GetString());
                Assert.Equal(2 * HalfBytes, seen.RootElement.GetProperty("total").GetInt64());
                Say($"{devices[i].Uuid}: another process opened it by {seen.RootElement.GetProperty("way").GetString()}");
            }
            foreach (IUpdateBuffer buffer in buffers)
            {
                buffer.Dispose();
            }
            Assert.InRange(devices[0].FreeBytes, freeBefore - (64 << 20), long.MaxValue);
        }
        finally
        {
            Array.ForEach(devices, device => device.Dispose());
            Libc.munmap(source, (nuint)HalfBytes);
        }
    }

    [Fact]
    public void Copy_MemoryThatCannotBePinned_GoesThroughStaging()
    {
        NeedGpu();
        IUpdateDevice device = UpdateDevices.Make(UpdateDeviceKind.Cuda, 1)[0];
        byte* source = Map(HalfBytes);
        try
        {
            RandomNumberGenerator.Fill(new Span<byte>(source, (int)HalfBytes));
            using var other = new CudaContext(0, "the first GPU");
            using CudaContext.Scope scope = other.Enter();
            // What somebody else of the process has pinned is refused.
            Assert.Equal(0, LibCuda.cuMemHostRegister(source + (1 << 20), 1 << 20, LibCuda.CU_MEMHOSTREGISTER_PORTABLE));
            UpdatePiece[] pieces = Pieces((nint)source, HalfBytes);
            using var buffer = (CudaUpdateBuffer)device.AllocateBuffer(HalfBytes);
            for (int round = 0; round < 4; round++)
            {
                buffer.BeginCopy(round & 1, pieces);
                Say($"staged, round {round}: {HalfBytes / 1e9 / buffer.Synchronize(round & 1):0.0} GB/s");
            }
            Assert.True(buffer.IsStaged);
            AssertHas(buffer, 0, pieces);
            AssertHas(buffer, 1, pieces);
            Assert.Equal(0, LibCuda.cuMemHostUnregister(source + (1 << 20)));
        }
        finally
        {
            device.Dispose();
            Libc.munmap(source, (nuint)HalfBytes);
        }
    }

    [Fact]
    public void Copy_FileMappedForReading_Arrives()
    {
        NeedGpu();
        string path = Path.GetTempFileName();
        try
        {
            byte[] content = new byte[HalfBytes];
            RandomNumberGenerator.Fill(content);
            File.WriteAllBytes(path, content);
            using MemoryMappedFile file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
            using MemoryMappedViewAccessor view = file.CreateViewAccessor(0, HalfBytes, MemoryMappedFileAccess.Read);
            UpdatePiece[] pieces = Pieces(view.SafeMemoryMappedViewHandle.DangerousGetHandle(), HalfBytes);
            using IUpdateDevice device = UpdateDevices.Make(UpdateDeviceKind.Cuda, 1)[0];
            using var buffer = (CudaUpdateBuffer)device.AllocateBuffer(HalfBytes);
            for (int round = 0; round < 4; round++)
            {
                buffer.BeginCopy(round & 1, pieces);
                double seconds = buffer.Synchronize(round & 1);
                Say($"a file, {(buffer.IsStaged ? "staged" : "pinned in place")}, round {round}: {HalfBytes / 1e9 / seconds:0.0} GB/s");
            }
            AssertHas(buffer, 0, pieces);
            AssertHas(buffer, 1, pieces);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Dispose_WhileCopying_EndsItAndFrees()
    {
        NeedGpu();
        IUpdateDevice device = UpdateDevices.Make(UpdateDeviceKind.Cuda, 1)[0];
        byte* source = Map(HalfBytes);
        try
        {
            long free = device.FreeBytes;
            IUpdateBuffer buffer = device.AllocateBuffer(HalfBytes);
            buffer.BeginCopy(0, Pieces((nint)source, HalfBytes));
            buffer.Dispose();
            Assert.InRange(device.FreeBytes, free - (64 << 20), long.MaxValue);
        }
        finally
        {
            device.Dispose();
            Libc.munmap(source, (nuint)HalfBytes);
        }
    }

    private static void NeedGpu()
    {
        if (!CudaDevices.IsSupported(out string? reason))
        {
            Assert.Skip($"this test needs a GPU: {reason}");
        }
    }

    private static int CountGpus()
    {
        int count;
        Assert.Equal(0, LibCuda.cuDeviceGetCount(&count));
        return count;
    }

    private static void Say(string line) => TestContext.Current.TestOutputHelper?.WriteLine(line);

    private static byte* Map(long bytes)
    {
        void* address = Libc.mmap(null, (nuint)bytes, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS, -1, 0);
        Assert.True(address != Libc.MAP_FAILED);
        return (byte*)address;
    }

    // Tensors of odd lengths side by side, as in a file; in the half each at a multiple of 256.
    private static UpdatePiece[] Pieces(nint source, long halfBytes)
    {
        var pieces = new List<UpdatePiece>();
        long from = 0;
        long offset = 0;
        for (long bytes = 1_000_003; ; bytes = bytes * 3 / 2)
        {
            bytes = Math.Min(bytes, halfBytes - offset - 256);
            if (bytes <= 0)
            {
                return [.. pieces];
            }
            pieces.Add(new UpdatePiece(source + (nint)from, offset, bytes));
            from += bytes;
            offset = (offset + bytes + 255) & -256;
        }
    }

    private static void AssertHas(CudaUpdateBuffer buffer, int half, UpdatePiece[] pieces)
    {
        byte[] there = new byte[HalfBytes];
        fixed (byte* destination = there)
        {
            buffer.Read(half, destination);
        }
        foreach (UpdatePiece piece in pieces)
        {
            Assert.True(new ReadOnlySpan<byte>((void*)piece.Source, (int)piece.Bytes).SequenceEqual(there.AsSpan((int)piece.Offset, (int)piece.Bytes)), $"half {half}, offset {piece.Offset}");
        }
    }

    private static JsonDocument RunPython(ReadOnlyMemory<byte> input, params string[] arguments)
    {
        var start = new ProcessStartInfo("python3", [Path.Combine(AppContext.BaseDirectory, "Inference", "python", "cuda_worker.py"), .. arguments])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (Win32Exception absent)
        {
            Assert.Skip($"this test needs python3 on the PATH: {absent.Message}");
            throw;
        }
        using (process)
        {
            process.StandardInput.BaseStream.Write(input.Span);
            process.StandardInput.Close();
            Task<string> output = process.StandardOutput.ReadToEndAsync();
            Assert.True(process.WaitForExit(s_patience), "Python takes too long");
            Assert.Equal(0, process.ExitCode);
            return JsonDocument.Parse(output.Result);
        }
    }
}
