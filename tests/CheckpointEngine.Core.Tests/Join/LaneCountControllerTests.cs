using CheckpointEngine.Join;

namespace CheckpointEngine.Tests;

public sealed class LaneCountControllerTests
{
    // Runs against a link whose rate depends on the number of lanes; the counts after each window.
    private static List<int> Run(LaneCountController controller, Func<int, double> bytesPerSecond, int windows)
    {
        List<int> counts = [controller.Initial];
        double bytes = 0;
        for (int i = 1; i <= windows; i++)
        {
            bytes += bytesPerSecond(counts[^1]) * 0.2;
            counts.Add(controller.Next((long)bytes, TimeSpan.FromMilliseconds(200 * i)));
        }
        return counts;
    }

    [Fact]
    public void Next_FixedByTheUser_NeverChanges()
        => Assert.All(Run(new LaneCountController(4, allHere: false, cores: 8, fixedLanes: 3, limit: 64), lanes => lanes * 1e9, 50), lanes => Assert.Equal(3, lanes));

    [Fact]
    public void Next_EachLaneBringsMore_RisesToTheMost()
    {
        List<int> counts = Run(new LaneCountController(1, allHere: false, cores: 8, fixedLanes: 0, limit: 64), lanes => lanes * 1e9, 20);
        Assert.Equal([4, 6, 8, 8], counts[..4]);
        Assert.Equal(8, counts.Max());
        Assert.Equal(8, counts[^1]);
    }

    [Fact]
    public void Next_NoMoreGainFromTheFirstStep_StepsBackAndRests()
    {
        List<int> counts = Run(new LaneCountController(1, allHere: false, cores: 16, fixedLanes: 0, limit: 64), lanes => Math.Min(lanes, 3) * 1e9, 18);
        Assert.Equal([4, 6, 4], counts[..3]);
        Assert.All(counts[2..17], lanes => Assert.Equal(4, lanes));      // three seconds of rest
    }

    [Fact]
    public void Next_AfterTheRest_TriesAgain()
    {
        List<int> counts = Run(new LaneCountController(1, allHere: false, cores: 16, fixedLanes: 0, limit: 64), lanes => Math.Min(lanes, 3) * 1e9, 40);
        Assert.Contains(6, counts[15..]);
        Assert.Equal(6, counts.Max());
    }

    [Fact]
    public void Next_WithinAWindow_KeepsTheCount()
    {
        var controller = new LaneCountController(1, allHere: false, cores: 8, fixedLanes: 0, limit: 64);
        Assert.Equal(4, controller.Next(1 << 30, TimeSpan.FromMilliseconds(100)));
        Assert.Equal(6, controller.Next(1 << 30, TimeSpan.FromMilliseconds(160)));
        Assert.Equal(6, controller.Next(1 << 31, TimeSpan.FromMilliseconds(200)));
    }

    [Theory]
    [InlineData(1, true, 2, 2)]
    [InlineData(1, true, 16, 8)]
    [InlineData(1, true, 64, 8)]
    [InlineData(100, true, 2, 2)]
    [InlineData(3, false, 16, 4)]
    [InlineData(100, false, 16, 8)]
    [InlineData(0, true, 1, 1)]
    public void Initial_IsAFewLanesHereAndOnePerOwnerOverANetwork(int owners, bool allHere, int cores, int expected)
        => Assert.Equal(expected, new LaneCountController(owners, allHere, cores, 0, 64).Initial);

    [Theory]
    [InlineData(true, 2, 2, 2)]
    [InlineData(true, 2, 3, 1)]
    [InlineData(true, 16, 8, 4)]
    [InlineData(true, 16, 16, 2)]
    [InlineData(true, 16, int.MaxValue, 1)]
    [InlineData(false, 2, 64, 4)]
    public void Initial_ManyReadersOfOneHost_ShareItsCores(bool allHere, int cores, int readers, int expected)
        => Assert.Equal(expected, new LaneCountController(1, allHere, cores, 0, 64, readers).Initial);

    [Fact]
    public void Next_ReadersComeAndGo_FollowsThem()
    {
        var controller = new LaneCountController(1, allHere: true, cores: 16, fixedLanes: 0, limit: 64);
        Assert.Equal(8, controller.Initial);
        Assert.Equal(1, controller.Next(1 << 20, TimeSpan.FromMilliseconds(10), readers: 64));
        Assert.Equal(1, controller.Next(1 << 21, TimeSpan.FromMilliseconds(20), readers: 64));
        Assert.Equal(8, controller.Next(1 << 22, TimeSpan.FromMilliseconds(30), readers: 1));
        Assert.Equal(12, controller.Next(1 << 30, TimeSpan.FromMilliseconds(300), readers: 1));
    }

    [Fact]
    public void Next_FixedByTheUser_StaysAmongManyReaders()
        => Assert.Equal(3, new LaneCountController(1, allHere: true, cores: 2, fixedLanes: 3, limit: 64, readers: 64).Next(1, TimeSpan.FromSeconds(1), readers: 64));

    [Fact]
    public void Next_AnyRates_StaysBetweenOneAndTheLimit()
    {
        var random = new Random(5);
        List<int> counts = Run(new LaneCountController(2, allHere: false, cores: 128, fixedLanes: 0, limit: 9), _ => random.NextDouble() * 1e10, 500);
        Assert.All(counts, lanes => Assert.InRange(lanes, 1, 9));
    }
}
