using System.Globalization;
using System.Text.RegularExpressions;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Tests;

[Collection(CountsMemory.Name)]
public class MemoryBufferTests
{
    private const long TwoMiB = 2 << 20;

    [Theory]
    [InlineData(1)]
    [InlineData(4096)]
    [InlineData(TwoMiB + 1)]
    [InlineData(0)]
    public void Allocate_AnyLength_IsZeroedAlignedAndReleased(long lengthBytes)
    {
        long before = MemoryRegionHandle.LiveBytes;
        foreach (MemoryBuffer buffer in (MemoryBuffer[])[MemoryBuffer.AllocateAnonymous(lengthBytes), MemoryBuffer.AllocateMemfd(lengthBytes, "test é")])
        {
            Assert.Equal(0, buffer.Address % TwoMiB);
            Assert.Equal(lengthBytes, buffer.LengthBytes);
            Assert.Equal(-1, buffer.GetSpan(0, (int)lengthBytes).IndexOfAnyExcept((byte)0));
            buffer.GetSpan(0, (int)lengthBytes).Fill(7);
            Assert.Equal(-1, buffer.GetReadOnlySpan(0, (int)lengthBytes).IndexOfAnyExcept((byte)7));
            buffer.Dispose();
            buffer.Dispose();
            Assert.Throws<ObjectDisposedException>(() => buffer.Address);
            Assert.Throws<ObjectDisposedException>(() => { buffer.GetReadOnlySpan(0, 0); });
        }
        Assert.Equal(before, MemoryRegionHandle.LiveBytes);
    }

    [Fact]
    public void AllocateMemfd_Descriptor_IsReadableAndSealed()
    {
        using MemoryBuffer buffer = MemoryBuffer.AllocateMemfd(10_000, "sealed");
        buffer.GetSpan(9_000, 5).Fill(42);
        byte[] read = new byte[5];
        Assert.Equal(5, RandomAccess.Read(buffer.FileDescriptor!, read, 9_000));
        Assert.All(read, value => Assert.Equal(42, value));
        string path = $"/proc/self/fd/{buffer.FileDescriptor!.DangerousGetHandle()}";
        Assert.ThrowsAny<Exception>(() => RandomAccess.SetLength(buffer.FileDescriptor, 5_000));
        using FileStream other = new(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0);
        Assert.ThrowsAny<Exception>(() => other.Write([1]));
    }

    [Fact]
    public void Allocate_MoreThanTheHostHas_IsOutOfMemoryWithSizes()
    {
        foreach (Func<MemoryBuffer> allocate in (Func<MemoryBuffer>[])[() => MemoryBuffer.AllocateAnonymous(1L << 46), () => MemoryBuffer.AllocateMemfd(1L << 46, "big"), () => MemoryBuffer.AllocateAnonymous(long.MaxValue)])
        {
            var e = Assert.Throws<CheckpointEngineException>(allocate);
            Assert.Equal(CheckpointError.OutOfMemory, e.Error);
            Assert.Contains("available", e.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Borrow_CallersMemory_IsUsedAndLeft()
    {
        byte[] owned = GC.AllocateArray<byte>(100, pinned: true);
        nint address = System.Runtime.InteropServices.Marshal.UnsafeAddrOfPinnedArrayElement(owned, 0);
        using (MemoryBuffer buffer = MemoryBuffer.Borrow(address, owned.Length))
        {
            buffer.GetSpan(10, 5).Fill(3);
            Assert.Equal(MemoryBufferKind.Borrowed, buffer.Kind);
            Assert.Null(buffer.FileDescriptor);
        }
        Assert.Equal(3, owned[14]);
        Assert.Throws<ArgumentOutOfRangeException>(() => MemoryBuffer.Borrow(0, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => MemoryBuffer.Borrow(-4096, long.MaxValue));
    }

    [Fact]
    public void GetSpan_OutOfRangeOrReadOnly_IsRefused()
    {
        using var directory = new TempDirectory();
        using MemoryBuffer buffer = MemoryBuffer.MapFile(directory.Write("f", "0123456789"));
        Assert.Equal("345"u8, buffer.GetReadOnlySpan(3, 3));
        Assert.Equal("345"u8, buffer.AsMemory(3, 3).Span);
        Assert.Throws<InvalidOperationException>(() => { buffer.GetSpan(0, 1); });
        Assert.Throws<ArgumentOutOfRangeException>(() => { buffer.GetReadOnlySpan(8, 3); });
        Assert.Throws<ArgumentOutOfRangeException>(() => { buffer.GetReadOnlySpan(-1, 3); });
        Assert.Throws<ArgumentOutOfRangeException>(() => { buffer.GetReadOnlySpan(long.MaxValue, int.MaxValue); });
        buffer.Prefetch(2, 5);
    }

    [Fact]
    public void AsMemory_Pinned_OutlivesDispose()
    {
        long before = MemoryRegionHandle.LiveBytes;
        MemoryBuffer buffer = MemoryBuffer.AllocateAnonymous(100);
        System.Buffers.MemoryHandle pin = buffer.AsMemory(0, 10).Pin();
        buffer.Dispose();
        Assert.NotEqual(before, MemoryRegionHandle.LiveBytes);
        pin.Dispose();
        Assert.Equal(before, MemoryRegionHandle.LiveBytes);
    }

    [Fact]
    public void MapFile_EmptyMissingOrDirectory_IsTypedError()
    {
        using var directory = new TempDirectory();
        Assert.Equal(CheckpointError.InvalidData, Assert.Throws<CheckpointEngineException>(() => MemoryBuffer.MapFile(directory.Write("empty", ""))).Error);
        Assert.Equal(CheckpointError.NotFound, Assert.Throws<CheckpointEngineException>(() => MemoryBuffer.MapFile(directory.Path + "/no")).Error);
        Assert.Equal(CheckpointError.Io, Assert.Throws<CheckpointEngineException>(() => MemoryBuffer.MapFile(directory.Path)).Error);
    }

    [Fact]
    public void CheckBackingSize_TruncatedFile_IsIo()
    {
        using var directory = new TempDirectory();
        string path = directory.Write("f", new byte[10_000]);
        using MemoryBuffer buffer = MemoryBuffer.MapFile(path);
        buffer.CheckBackingSize();
        using (FileStream file = new(path, FileMode.Open))
        {
            file.SetLength(9_999);
        }
        var e = Assert.Throws<CheckpointEngineException>(buffer.CheckBackingSize);
        Assert.Equal(CheckpointError.Io, e.Error);
        Assert.Contains("10,000 bytes when it was mapped and has 9,999 now", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TryLock_WithinTheLimit_LocksUntilDispose()
    {
        long before = HostMemory.LockedBytes();
        using (MemoryBuffer buffer = MemoryBuffer.AllocateAnonymous(64 << 10))
        {
            Assert.SkipUnless(buffer.TryLock(out string? reason), $"not even 64 KiB can be locked here: {reason}");
            Assert.True(buffer.IsLocked);
            Assert.Equal(before + (64 << 10), HostMemory.LockedBytes());
        }
        Assert.Equal(before, HostMemory.LockedBytes());
    }

    [Fact]
    public void TryLock_BeyondTheLimit_TellsTheNeededUlimit()
    {
        long limit = HostMemory.LockLimitBytes();
        Assert.SkipWhen(limit > 1L << 30, $"the limit on locked memory is {limit:N0} bytes here, too high to go beyond in a test");
        WithoutIpcLock.Run(() =>
        {
            using MemoryBuffer buffer = MemoryBuffer.AllocateAnonymous(limit + (1 << 20));
            Assert.False(buffer.TryLock(out string? reason));
            Assert.False(buffer.IsLocked);
            Match needed = Regex.Match(reason!, @"ulimit -l (\d+)");
            Assert.True(needed.Success, reason);
            Assert.InRange(long.Parse(needed.Groups[1].Value, CultureInfo.InvariantCulture), (limit >> 10) + 1024, (limit >> 10) + 65536);
        });
    }
}
