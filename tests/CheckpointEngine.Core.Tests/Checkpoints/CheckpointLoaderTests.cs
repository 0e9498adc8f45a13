using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Tests;

[Collection(CountsMemory.Name)]
public sealed class CheckpointLoaderTests : IDisposable
{
    private static readonly Sample.Tensor[] s_first =
    [
        new("model.b.weight", TensorDtype.BF16, [33, 3]), new("model.a.weight", TensorDtype.F32, [7]), new("model.empty", TensorDtype.U8, [0, 4]),
    ];

    private static readonly Sample.Tensor[] s_second =
    [
        new("model.a.Weight", TensorDtype.U8, [300]), new("lm_head", TensorDtype.F64, []), new("é", TensorDtype.F4, [2]), new("model.big", TensorDtype.I8, [9_000_000]),
    ];

    private static readonly string[] s_byName = ["lm_head", "model.a.Weight", "model.a.weight", "model.b.weight", "model.big", "model.empty", "é"];

    private readonly TempDirectory _directory = new();
    private readonly long _liveBefore = MemoryRegionHandle.LiveBytes;

    public CheckpointLoaderTests()
    {
        _directory.Write("model-1.safetensors", Sample.File(s_first));
        _directory.Write("model-2.safetensors", Sample.File(s_second));
        _directory.Write("model-3-empty.safetensors", Sample.File());
        _directory.Write("config.json", "{}");
    }

    public void Dispose()
    {
        Assert.Equal(_liveBefore, MemoryRegionHandle.LiveBytes);   // every test gives back what it lent, whatever it did
        _directory.Dispose();
    }

    [Theory]
    [InlineData(HoldMode.Map)]
    [InlineData(HoldMode.Memfd)]
    [InlineData(HoldMode.Anonymous)]
    public void Load_Directory_HoldsEveryByte(HoldMode mode)
    {
        using HeldCheckpoint held = Load(mode, PinMode.None);
        foreach (Sample.Tensor tensor in s_first.Concat(s_second))
        {
            Assert.Equal(tensor.Bytes(), held.GetTensorBytes(tensor.Name));
            int index = held.Tensors.IndexOf(tensor.Name);
            Assert.Equal(tensor.Shape, held.Tensors.GetShape(index).ToArray());
            HeldBuffer buffer = held.Buffers[held.BufferOf(index)];
            Assert.InRange(index, buffer.FirstTensor, buffer.FirstTensor + buffer.TensorCount - 1);
            Assert.Equal(buffer.Address + (nint)held.Tensors.GetOffset(index), held.GetAddress(index));
        }
        Assert.Equal(7, held.Tensors.Count);
        Assert.Equal(s_first.Concat(s_second).Sum(tensor => tensor.Bytes().LongLength), held.DataBytes);
        Assert.Equal("config.json", Assert.Single(held.SideFiles).Name);
        Assert.Empty(held.Warnings);
        held.CheckBackingSizes();
    }

    [Fact]
    public void Load_Map_IsTheFilesInPlaceWithExactSlots()
    {
        using HeldCheckpoint held = Load(HoldMode.Map, PinMode.None);
        Assert.Equal(2, held.Buffers.Length);
        for (int b = 0; b < 2; b++)
        {
            HeldBuffer buffer = held.Buffers[b];
            Assert.Equal(MemoryBufferKind.MappedFile, buffer.Memory.Kind);
            Assert.Equal(buffer.Memory.LengthBytes, buffer.StartBytes + buffer.SizeBytes);
            long next = 0;
            for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
            {
                Assert.Equal(next, held.Tensors.GetOffset(tensor));
                Assert.Equal(held.Tensors.GetByteLength(tensor), held.Tensors.GetSlotBytes(tensor));
                next += held.Tensors.GetSlotBytes(tensor);
            }
            Assert.Equal(buffer.SizeBytes, next);
        }
    }

    [Theory]
    [InlineData(HoldMode.Memfd)]
    [InlineData(HoldMode.Anonymous)]
    public void Load_Copied_IsByNameIn256ByteSlotsWithZeroPadding(HoldMode mode)
    {
        using HeldCheckpoint held = Load(mode, PinMode.None);
        HeldBuffer buffer = Assert.Single(held.Buffers.ToArray());
        Assert.Equal(s_byName, Enumerable.Range(0, held.Tensors.Count).Select(held.Tensors.GetName));
        long next = 0;
        for (int tensor = 0; tensor < held.Tensors.Count; tensor++)
        {
            long bytes = held.Tensors.GetByteLength(tensor), slot = held.Tensors.GetSlotBytes(tensor);
            Assert.Equal(next, held.Tensors.GetOffset(tensor));
            Assert.Equal((bytes + 255) / 256 * 256, slot);
            Assert.Equal(-1, buffer.Memory.GetReadOnlySpan(next + bytes, (int)(slot - bytes)).IndexOfAnyExcept((byte)0));
            next += slot;
        }
        Assert.Equal(buffer.SizeBytes, next);
    }

    [Fact]
    public void Plan_SmallBuffers_SplitsAndGivesALargeTensorItsOwnSize()
    {
        using SafetensorsFile first = SafetensorsFile.Open(Path.Join(_directory.Path, "model-1.safetensors"));
        using SafetensorsFile second = SafetensorsFile.Open(Path.Join(_directory.Path, "model-2.safetensors"));
        CheckpointPacking packing = CheckpointPacking.Plan([first, second], bufferBytes: 512);
        Assert.All(packing.Buffers, buffer => Assert.InRange(buffer.SizeBytes, 1, (9_000_000 + 255) / 256 * 256));
        CheckpointPacking small = CheckpointPacking.Plan([first], bufferBytes: 256);
        Assert.Equal([new PackedBuffer(256, 0, 1), new PackedBuffer(256, 1, 2)], small.Buffers);
    }

    [Theory]
    [InlineData(HoldMode.Map)]
    [InlineData(HoldMode.Anonymous)]
    public void Load_NameInTwoFiles_NamesBoth(HoldMode mode)
    {
        _directory.Write("other.safetensors", Sample.File(s_first[1]));
        var e = Assert.Throws<CheckpointEngineException>(() => Load(mode, PinMode.None));
        Assert.Equal(CheckpointError.InvalidData, e.Error);
        Assert.Contains("'model.a.weight'", e.Message, StringComparison.Ordinal);
        Assert.Contains("model-1.safetensors and ", e.Message, StringComparison.Ordinal);
        Assert.Contains("other.safetensors", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(HoldMode.Map)]
    [InlineData(HoldMode.Memfd)]
    public void Load_LastFileBad_ReleasesAll(HoldMode mode)
    {
        _directory.Write("z.safetensors", "not one");
        Assert.Throws<CheckpointEngineException>(() => Load(mode, PinMode.None));
    }

    [Fact]
    public void Load_Progress_RisesToTheEnd()
    {
        var told = new Progress();
        using HeldCheckpoint held = Load(HoldMode.Anonymous, PinMode.None, told);
        Assert.Equal(told.Values.OrderBy(value => value.BytesDone), told.Values);
        Assert.All(told.Values, value => Assert.Equal(held.DataBytes, value.BytesTotal));
        Assert.Equal(held.DataBytes, told.Values[^1].BytesDone);
    }

    [Fact]
    public void Load_Cancelled_ReleasesAll()
    {
        using var cancelled = new CancellationTokenSource();
        cancelled.Cancel();
        foreach (HoldMode mode in Enum.GetValues<HoldMode>())
        {
            Assert.Throws<OperationCanceledException>(() => CheckpointLoader.Load("c", _directory.Path, mode, PinMode.None, null, cancelled.Token));
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Copy_CancelledOrTruncatedMeanwhile_StopsItsThreads(bool cancel)
    {
        string path = Path.Join(_directory.Path, "model-2.safetensors");
        using SafetensorsFile file = SafetensorsFile.Open(path);
        CheckpointPacking packing = CheckpointPacking.Plan([file], CheckpointPacking.BufferBytes);
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(packing.Buffers[0].SizeBytes);
        using var copy = new CheckpointCopy([file], packing, [new HeldBuffer(memory, 0, memory.LengthBytes, 0, packing.Tensors.Count)]);
        using var source = new CancellationTokenSource();
        if (cancel)
        {
            source.Cancel();
            Assert.Throws<OperationCanceledException>(() => copy.Run(null, source.Token));
        }
        else
        {
            using (FileStream writer = new(path, FileMode.Open))
            {
                writer.SetLength(10_000);
            }
            var e = Assert.Throws<CheckpointEngineException>(() => copy.Run(null, source.Token));
            Assert.Equal(CheckpointError.Io, e.Error);
            Assert.Contains("truncated", e.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(HoldMode.Map)]
    [InlineData(HoldMode.Anonymous)]
    public void Load_LockLimitTooLow_WarnsOrFails(HoldMode mode)
    {
        long limit = HostMemory.LockLimitBytes();
        Assert.SkipWhen(limit > 9_000_000, $"the limit on locked memory is {limit:N0} bytes here, more than the sample has");
        WithoutIpcLock.Run(() =>
        {
            using (HeldCheckpoint held = Load(mode, PinMode.Auto))
            {
                Assert.Contains("ulimit -l", Assert.Single(held.Warnings), StringComparison.Ordinal);
                Assert.False(held.Buffers[0].Memory.IsLocked);
            }
            var e = Assert.Throws<CheckpointEngineException>(() => Load(mode, PinMode.Mlock));
            Assert.Contains("ulimit -l", e.Message, StringComparison.Ordinal);
        });
    }

    [Fact]
    public void Load_Index_ChecksWhereTensorsAre()
    {
        void Index(string map) => _directory.Write(SafetensorsIndex.FileName, "{\"weight_map\":{" + map + "}}");
        string Refused() => Assert.Throws<CheckpointEngineException>(() => Load(HoldMode.Map, PinMode.None)).Message;

        Index("\"model.a.weight\":\"model-1.safetensors\",\"lm_head\":\"model-2.safetensors\"");
        using (HeldCheckpoint held = Load(HoldMode.Map, PinMode.None))
        {
            Assert.Equal(7, held.Tensors.Count);
            Assert.Contains("5 tensors that the index does not name", Assert.Single(held.Warnings), StringComparison.Ordinal);
        }
        Index("\"model.a.weight\":\"model-2.safetensors\",\"model.b.weight\":\"model-1.safetensors\"");
        Assert.Contains("'model.a.weight' is said to be in model-2.safetensors and is in ", Refused(), StringComparison.Ordinal);
        Index("\"nowhere\":\"model-2.safetensors\"");
        Assert.Contains("'nowhere' is said to be in model-2.safetensors, which has no such tensor", Refused(), StringComparison.Ordinal);
        Index("\"nowhere\":\"model-9.safetensors\"");
        Assert.Contains("model-9.safetensors is not there", Refused(), StringComparison.Ordinal);
        Index("\"nowhere\":\"../model-1.safetensors\"");
        Assert.Contains("plain relative path", Refused(), StringComparison.Ordinal);
    }

    [Fact]
    public void GetTensor_WidthAlignmentAndName_AreChecked()
    {
        _directory.Write("odd.safetensors", Sample.File(new("odd.u8", TensorDtype.U8, [1]), new("odd.f32", TensorDtype.F32, [2])));
        using HeldCheckpoint held = CheckpointLoader.LoadFiles("c", [Path.Join(_directory.Path, "model-1.safetensors"), Path.Join(_directory.Path, "odd.safetensors")], HoldMode.Map, PinMode.None, null, TestContext.Current.CancellationToken);
        Assert.Equal(99, held.GetTensor<ushort>("model.b.weight").Length);
        Assert.Equal(198, held.GetTensor<byte>("model.b.weight").Length);
        Assert.Throws<ArgumentException>(() => { held.GetTensor<float>("model.b.weight"); });
        Assert.Equal(CheckpointError.NotSupported, Assert.Throws<CheckpointEngineException>(() => { held.GetTensor<float>("odd.f32"); }).Error);
        Assert.Equal(CheckpointError.NotFound, Assert.Throws<CheckpointEngineException>(() => { held.GetTensorBytes("no"); }).Error);
        Assert.Throws<ArgumentOutOfRangeException>(() => { held.GetTensorBytes(0, 190, 20); });
        Assert.Equal(s_first[0].Bytes().AsSpan(190, 8), held.GetTensorBytes(held.Tensors.IndexOf("model.b.weight"), 190, 8));
        Assert.Empty(held.SideFiles);
        held.Dispose();
        Assert.Throws<ObjectDisposedException>(() => { held.GetTensorBytes("model.b.weight"); });
    }

    [Fact]
    public void GetTensorBytes_MoreThanASpan_PointsToParts()
    {
        using var builder = new TensorTableBuilder();
        builder.Add("huge"u8, TensorDtype.U8, [3L << 30], 3L << 30, 0);
        byte[] anything = GC.AllocateArray<byte>(1, pinned: true);
        MemoryBuffer memory = MemoryBuffer.Borrow(System.Runtime.InteropServices.Marshal.UnsafeAddrOfPinnedArrayElement(anything, 0), 3L << 30);
        using var held = new HeldCheckpoint("c", builder.Build(), [new HeldBuffer(memory, 0, 3L << 30, 0, 1)], [], []);
        var e = Assert.Throws<CheckpointEngineException>(() => { held.GetTensorBytes("huge"); });
        Assert.Equal(CheckpointError.NotSupported, e.Error);
        Assert.Contains("GetTensorBytes(tensor, offset, length)", e.Message, StringComparison.Ordinal);
        Assert.Equal(5, held.GetTensorBytes(0, (3L << 30) - 5, 5).Length);
    }

    private HeldCheckpoint Load(HoldMode mode, PinMode pin, IProgress<LoadProgress>? progress = null)
        => CheckpointLoader.Load("c", _directory.Path, mode, pin, progress, TestContext.Current.CancellationToken);

    private sealed class Progress : IProgress<LoadProgress>
    {
        internal List<LoadProgress> Values { get; } = [];

        public void Report(LoadProgress value) => Values.Add(value);
    }
}
