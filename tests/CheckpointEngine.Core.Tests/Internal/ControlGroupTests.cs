using CheckpointEngine.Internal;

namespace CheckpointEngine.Tests;

/// <summary>Control groups of hosts that are not here: made of files.</summary>
public sealed class ControlGroupTests : IDisposable
{
    private const long Mebibyte = 1 << 20;
    private const string FirstVersionsNone = "9223372036854771712\n";

    private readonly DirectoryInfo _root = Directory.CreateTempSubdirectory("ce-groups-");

    public void Dispose() => _root.Delete(recursive: true);

    [Fact]
    public void Tightest_OfTheSecondVersion_CountsPageCacheAsFree()
    {
        Write("proc/self/cgroup", "0::/pods/one\n");
        Group("sys/fs/cgroup/pods/one", 1000 * Mebibyte, 700 * Mebibyte);
        Write("sys/fs/cgroup/pods/one/memory.stat", $"anon 1\nactive_file {100 * Mebibyte}\ninactive_file {200 * Mebibyte}\nslab_reclaimable {10 * Mebibyte}\nshmem 5\n");

        Assert.Equal(new GroupRoom("memory.max", 1000 * Mebibyte, 610 * Mebibyte), Find());
    }

    [Fact]
    public void Tightest_OfAGroupAbove_IsTheOneThatLeavesLeast()
    {
        Write("proc/self/cgroup", "0::/pods/one\n");
        Group("sys/fs/cgroup/pods/one", 1000 * Mebibyte, 0);
        Group("sys/fs/cgroup/pods", 2000 * Mebibyte, 1900 * Mebibyte);

        Assert.Equal(100 * Mebibyte, Find()!.Value.LeftBytes);
    }

    [Theory]
    [InlineData("0::/\n")]                           // a container with a name space of its own
    [InlineData("0::/../../elsewhere\n")]            // entered from outside of it
    [InlineData("0::/not/to/be/seen\n")]             // a container that sees its own group as the root
    public void Tightest_InAContainer_IsOfWhatItSeesAsTheRoot(string lines)
    {
        Write("proc/self/cgroup", lines);
        Group("sys/fs/cgroup", 500 * Mebibyte, 100 * Mebibyte);

        Assert.Equal(400 * Mebibyte, Find()!.Value.LeftBytes);
    }

    [Fact]
    public void Tightest_OfTheFirstVersion_ReadsItsNames()
    {
        Write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/job:7\n0::/\n");
        Write("sys/fs/cgroup/memory/job:7/memory.limit_in_bytes", $"{300 * Mebibyte}\n");
        Write("sys/fs/cgroup/memory/job:7/memory.usage_in_bytes", $"{200 * Mebibyte}\n");
        Write("sys/fs/cgroup/memory/job:7/memory.stat", $"inactive_file 9\ntotal_active_file {20 * Mebibyte}\ntotal_inactive_file {30 * Mebibyte}\n");
        Write("sys/fs/cgroup/memory/memory.limit_in_bytes", FirstVersionsNone);
        Write("sys/fs/cgroup/memory/memory.usage_in_bytes", $"{9000 * Mebibyte}\n");

        Assert.Equal(new GroupRoom("memory.limit_in_bytes", 300 * Mebibyte, 150 * Mebibyte), Find());
    }

    [Theory]
    [InlineData("max", 500, 600)]
    [InlineData("104857600", 500, 200)]
    [InlineData("0", 500, 100)]
    public void Tightest_WhereSwapIsAllowed_CountsIt(string most, long freeMebibytes, long leftMebibytes)
    {
        Write("proc/self/cgroup", "0::/one\n");
        Group("sys/fs/cgroup/one", 1000 * Mebibyte, 900 * Mebibyte);
        Write("sys/fs/cgroup/one/memory.swap.max", most + "\n");

        Assert.Equal(leftMebibytes * Mebibyte, Find(freeMebibytes * Mebibyte)!.Value.LeftBytes);
    }

    [Fact]
    public void Tightest_MoreUsedThanAllowed_LeavesNothing()
    {
        Write("proc/self/cgroup", "0::/one\n");
        Group("sys/fs/cgroup/one", 100 * Mebibyte, 200 * Mebibyte);

        Assert.Equal(0, Find()!.Value.LeftBytes);
    }

    [Theory]
    [InlineData("")]
    [InlineData("0::/one\n")]
    [InlineData("nonsense\n7:memory\n::\n")]
    public void Tightest_WithoutLimits_IsNone(string lines)
    {
        Write("proc/self/cgroup", lines);
        Write("sys/fs/cgroup/one/memory.max", "max\n");
        Write("sys/fs/cgroup/one/memory.current", "1\n");

        Assert.Null(Find());
    }

    private GroupRoom? Find(long swapFreeBytes = 0) => ControlGroup.FindTightest(swapFreeBytes, _root.FullName);

    private void Group(string path, long limit, long used)
    {
        Write(path + "/memory.max", $"{limit}\n");
        Write(path + "/memory.current", $"{used}\n");
    }

    private void Write(string path, string text)
    {
        string file = Path.Combine(_root.FullName, path);
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        File.WriteAllText(file, text);
    }
}
