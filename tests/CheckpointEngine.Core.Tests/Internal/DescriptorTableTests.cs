using System.Globalization;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Tests;

public class DescriptorTableTests
{
    [Fact]
    public async Task Reserve_TheTableHasRoomAndNothingStaysOpen()
    {
        int wanted = Size() + 1;        // of more than there is room for
        Assert.SkipWhen(wanted >= Limit(), $"this process may have {Limit()} descriptors, and has room for as many");
        Assert.True(await DescriptorTable.ReserveAsync(wanted));
        Assert.InRange(Size(), wanted, int.MaxValue);
        Assert.DoesNotContain(Directory.GetFileSystemEntries("/proc/self/fd"), path => int.Parse(Path.GetFileName(path), CultureInfo.InvariantCulture) >= wanted);
    }

    [Fact]
    public async Task Reserve_MoreThanTheProcessMayHave_IsAsMuchAsItMay()
    {
        Assert.SkipWhen(Limit() > 1 << 20, "a table for as many descriptors as this process may have would be large");
        Assert.True(await DescriptorTable.ReserveAsync(int.MaxValue));
        Assert.InRange(Size(), Limit(), int.MaxValue);
    }

    private static int Limit()
        => int.Parse(File.ReadLines("/proc/self/limits").Single(line => line.StartsWith("Max open files", StringComparison.Ordinal)).Split(' ', StringSplitOptions.RemoveEmptyEntries)[3], CultureInfo.InvariantCulture);

    private static int Size() => int.Parse(File.ReadLines("/proc/self/status").Single(line => line.StartsWith("FDSize:", StringComparison.Ordinal))["FDSize:".Length..], CultureInfo.InvariantCulture);
}
