using System.Globalization;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Tests;

public class DescriptorTableTests
{
    [Fact]
    public async Task Reserve_TheTableHasRoomAndNothingStaysOpen()
    {
        int limit = Read("limits", "Max open files", 3);
        int room = Math.Min(limit, DescriptorTable.Most);
        Assert.True(await DescriptorTable.ReserveAsync(long.MaxValue));
        Assert.InRange(Read("status", "FDSize:", 1), room, int.MaxValue);
        Assert.DoesNotContain(Directory.GetFileSystemEntries("/proc/self/fd"), path => int.Parse(Path.GetFileName(path), CultureInfo.InvariantCulture) >= room - 1);
    }

    private static int Read(string file, string line, int word)
        => int.Parse(File.ReadLines("/proc/self/" + file).Single(text => text.StartsWith(line, StringComparison.Ordinal)).Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries)[word], CultureInfo.InvariantCulture);
}
