using System.Runtime.InteropServices;
using CheckpointEngine.Internal;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Tests;

/// <summary>Makes files cold.</summary>
internal static partial class PageCache
{
    private const int Random = 1;           // POSIX_FADV_RANDOM
    private const int DontNeed = 4;         // POSIX_FADV_DONTNEED

    /// <summary>Drops a file from the page cache; skips the test, with the reason, where it stays or nobody can tell.</summary>
    internal static void DropOrSkip(string path)
    {
        using SafeFileHandle file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite);
        RandomAccess.FlushToDisk(file);     // what is not written yet cannot be dropped
        Assert.Equal(0, posix_fadvise(file, 0, 0, DontNeed));
        bool? cached = RegularFile.IsCached(file, new FileInfo(path).Length - 1);
        Assert.SkipWhen(cached is null, $"the file system of {path} does not tell what is in the page cache");
        Assert.SkipWhen(cached is true, $"the page cache keeps {path} (a file system in memory?)");
    }

    /// <summary>Brings a part of a file into the page cache, and nothing behind it.</summary>
    internal static void Bring(string path, long offset, int length)
    {
        using SafeFileHandle file = RegularFile.Open(path, out _);
        Assert.Equal(0, posix_fadvise(file, 0, 0, Random));
        RegularFile.ReadExactly(file, new byte[length], offset, path);
    }

    internal static bool Has(string path, long offset)
    {
        using SafeFileHandle file = RegularFile.Open(path, out _);
        return RegularFile.IsCached(file, offset) is true;
    }

    [LibraryImport("libc")]
    private static partial int posix_fadvise(SafeFileHandle file, long offset, long length, int advice);
}
