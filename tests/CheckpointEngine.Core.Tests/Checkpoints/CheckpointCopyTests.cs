using System.IO.Hashing;
using System.Runtime.InteropServices;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Tests;

/// <summary>Copies from the page cache and past it, of tensors that begin and end anywhere.</summary>
[Collection(CountsMemory.Name)]
public sealed unsafe class CheckpointCopyTests : IDisposable
{
    // Odd lengths put what follows at odd offsets; three units, the last of them short; chunks of tensors that lie in two units.
    private static readonly Sample.Tensor[] s_tensors =
    [
        new("a.one", TensorDtype.U8, [1]), new("z.odd", TensorDtype.U8, [(4 << 20) + 1]), new("b.large", TensorDtype.U8, [9_000_001]), new("empty", TensorDtype.U8, [0]),
        .. Enumerable.Range(0, 200).Select(i => new Sample.Tensor($"small.{i}", TensorDtype.U8, [1 + 97 * i])), new("c.exact", TensorDtype.BF16, [2 << 20]),
        new("y.last", TensorDtype.U8, [3_333_333]),
    ];

    private readonly TempDirectory _directory = new();
    private readonly long _liveBefore = MemoryRegionHandle.LiveBytes;
    private readonly string _path;

    public CheckpointCopyTests() => _path = _directory.Write("model.safetensors", Sample.File(s_tensors));

    public void Dispose()
    {
        Assert.Equal(_liveBefore, MemoryRegionHandle.LiveBytes);
        _directory.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Run_ColdFile_IsReadPastThePageCache(bool withDigests)
    {
        PageCache.DropOrSkip(_path);
        using var target = new Target(_path, withDigests);
        SkipWithoutDirectReads(target.File);
        target.Copy.Run(null, TestContext.Current.CancellationToken);
        target.AssertEqual();
        Assert.Equal(target.DataBytes, target.Copy.DirectBytes);
        ReadOnlySpan<CopyPiece> second = target.Copy.PiecesOf(1);
        Assert.False(PageCache.Has(_path, second[0].FileOffset + (1 << 20)));       // where nobody has asked before
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Run_CachedFile_IsReadFromThePageCache(bool withDigests)
    {
        using var target = new Target(_path, withDigests);
        target.Copy.Run(null, TestContext.Current.CancellationToken);
        target.AssertEqual();
        Assert.Equal(0, target.Copy.DirectBytes);
    }

    [Fact]
    public void Run_FileThatIsCachedInParts_HasEveryByte()
    {
        PageCache.DropOrSkip(_path);
        using var target = new Target(_path, withDigests: true);
        SkipWithoutDirectReads(target.File);
        ReadOnlySpan<CopyPiece> second = target.Copy.PiecesOf(1);
        int secondBytes = (int)(second[^1].FileOffset + second[^1].Bytes - second[0].FileOffset);
        PageCache.Bring(_path, second[0].FileOffset, secondBytes);
        ReadOnlySpan<CopyPiece> third = target.Copy.PiecesOf(2);
        PageCache.Bring(_path, third[0].FileOffset, 1 << 20);                       // its begin is no sign of the rest
        target.Copy.Run(null, TestContext.Current.CancellationToken);
        target.AssertEqual();
        Assert.Equal(target.DataBytes - secondBytes, target.Copy.DirectBytes);
    }

    [Fact]
    public void Run_NoDirectReads_FallsBack()
    {
        PageCache.DropOrSkip(_path);
        using var target = new Target(_path, withDigests: true, _ => null);
        target.Copy.Run(null, TestContext.Current.CancellationToken);
        target.AssertEqual();
        Assert.Equal(0, target.Copy.DirectBytes);
    }

    [Fact]
    public void Run_DirectReadsThatAreRefusedOnUse_FallsBack()
    {
        PageCache.DropOrSkip(_path);
        using SafetensorsFile file = SafetensorsFile.Open(_path);
        DirectFile? direct = DirectFile.TryOpen(file.Handle, file.Path);
        Assert.SkipWhen(direct is null, $"the file system of {_path} has no reads past the page cache");
        using (var target = new Target(_path, withDigests: true, _ => direct))
        {
            Refuse(direct);
            target.Copy.Run(null, TestContext.Current.CancellationToken);
            target.AssertEqual();
            Assert.Equal(0, target.Copy.DirectBytes);
        }
    }

    [Theory]
    [InlineData(true, 0)]
    [InlineData(true, 10_000_001)]
    [InlineData(true, 12 << 20)]
    [InlineData(false, 10_000_001)]
    public void Run_FileTruncatedMeanwhile_IsATypedError(bool cold, long newLength)
    {
        if (cold)
        {
            PageCache.DropOrSkip(_path);
        }
        using var target = new Target(_path, withDigests: true);
        using (FileStream writer = new(_path, FileMode.Open))
        {
            writer.SetLength(newLength);
        }
        var e = Assert.Throws<CheckpointEngineException>(() => target.Copy.Run(null, TestContext.Current.CancellationToken));
        Assert.Equal(CheckpointError.Io, e.Error);
        Assert.Contains("truncated", e.Message, StringComparison.Ordinal);
        Assert.Contains(_path, e.Message, StringComparison.Ordinal);
        Assert.False(target.Digests!.IsComplete);
    }

    [Fact]
    public void Run_CancelledInTheMiddle_StopsAndLeavesNothing()
    {
        PageCache.DropOrSkip(_path);
        using var source = new CancellationTokenSource();
        using (var target = new Target(_path, withDigests: true, file =>
        {
            source.Cancel();        // a thread has a unit in hand
            return DirectFile.TryOpen(file.Handle, file.Path);
        }))
        {
            Assert.Throws<OperationCanceledException>(() => target.Copy.Run(null, source.Token));
            Assert.False(target.Digests!.IsComplete);
        }
        Assert.Equal(_liveBefore, MemoryRegionHandle.LiveBytes);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Copy_Units_AllocateNothing(bool cold)
    {
        if (cold)
        {
            PageCache.DropOrSkip(_path);
        }
        using var target = new Target(_path, withDigests: true);
        Assert.True(target.Copy.UnitCount > 2);
        using var copier = new UnitCopier(target.Copy);
        copier.Copy(0);             // brings the descriptor and the memory
        copier.Copy(target.Copy.UnitCount - 1);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int unit = 1; unit < target.Copy.UnitCount - 1; unit++)
        {
            copier.Copy(unit);
        }
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        target.AssertEqual();
    }

    [Fact]
    public void TryOpen_WhereThereAreNoDirectReads_IsNull()
    {
        using Microsoft.Win32.SafeHandles.SafeFileHandle file = File.OpenHandle("/proc/self/maps");
        Assert.Null(DirectFile.TryOpen(file, "/proc/self/maps"));
    }

    private static void SkipWithoutDirectReads(SafetensorsFile file)
    {
        using DirectFile? direct = DirectFile.TryOpen(file.Handle, file.Path);
        Assert.SkipWhen(direct is null, $"the file system of {file.Path} has no reads past the page cache");
    }

    // An offset that is no multiple is what every file system that reads past the cache refuses.
    private static void Refuse(DirectFile direct)
    {
        byte* memory = (byte*)NativeMemory.AlignedAlloc(2 * DirectFile.MaxAlignment, DirectFile.MaxAlignment);
        try
        {
            Assert.SkipWhen(direct.TryRead(memory, 1, direct.Alignment), "this file system reads past the page cache from any offset");
        }
        finally
        {
            NativeMemory.AlignedFree(memory);
        }
    }

    private sealed class Target : IDisposable
    {
        private readonly CheckpointPacking _packing;
        private readonly MemoryBuffer _memory;

        internal Target(string path, bool withDigests, Func<SafetensorsFile, DirectFile?>? openDirect = null)
        {
            File = SafetensorsFile.Open(path);
            _packing = CheckpointPacking.Plan([File], CheckpointPacking.BufferBytes);
            _memory = MemoryBuffer.AllocateAnonymous(Assert.Single(_packing.Buffers).SizeBytes);
            Digests = withDigests ? new CheckpointDigests(_packing.Tensors, DigestAlgorithm.Xxh3) : null;
            Copy = new CheckpointCopy([File], _packing, [new HeldBuffer(_memory, 0, _memory.LengthBytes, 0, _packing.Tensors.Count)], Digests, openDirect);
            DataBytes = s_tensors.Sum(tensor => tensor.Dtype.ByteLength(tensor.Shape));
        }

        internal SafetensorsFile File { get; }

        internal CheckpointDigests? Digests { get; }

        internal CheckpointCopy Copy { get; }

        internal long DataBytes { get; }

        internal void AssertEqual()
        {
            Assert.Equal(Digests is not null, Digests?.IsComplete ?? false);
            byte[] chunks = new byte[64];
            foreach (Sample.Tensor tensor in s_tensors)
            {
                byte[] expected = tensor.Bytes();
                int index = _packing.Tensors.IndexOf(tensor.Name);
                Assert.True(expected.AsSpan().SequenceEqual(_memory.GetReadOnlySpan(_packing.Tensors.GetOffset(index), expected.Length)), $"tensor '{tensor.Name}' differs");
                if (Digests is not null)
                {
                    byte[] digests = [.. expected.Chunk(TensorDigest.ChunkBytes).SelectMany(chunk => XxHash128.Hash(chunk))];
                    Assert.True(Digests.TryGetChunks(index, chunks));
                    Assert.Equal(digests, chunks[..digests.Length]);
                }
            }
        }

        public void Dispose()
        {
            Copy.Dispose();
            _memory.Dispose();
            File.Dispose();
        }
    }
}
