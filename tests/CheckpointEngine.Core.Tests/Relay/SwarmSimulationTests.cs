using CheckpointEngine.Simulation;

namespace CheckpointEngine.Tests;

/// <summary>Many joiners behind one owner, simulated: how long all of them take, and how much the owner sends.</summary>
public sealed class SwarmSimulationTests
{
    private const double TenGigabit = 10e9 / 8;

    [Theory]
    [InlineData(1, 1.05, 1.01)]
    [InlineData(8, 1.2, 1.2)]
    [InlineData(100, 1.5, 1.3)]
    [InlineData(500, 1.5, 1.5)]
    public void StartedTogether_AllAreDoneInNearTheTimeOfOne(int joiners, double mostTimes, double mostCopies)
    {
        SwarmCase four = Case(joiners);
        SwarmResult result = SwarmSimulation.Run(four);

        Assert.InRange(result.Seconds / four.LowerBoundSeconds, 1, mostTimes);
        Assert.InRange(result.OwnerCopies, 1, mostCopies);
    }

    [Fact]
    public void TheSameSeed_TheSameResult()
    {
        SwarmResult one = SwarmSimulation.Run(Case(30));
        SwarmResult two = SwarmSimulation.Run(Case(30));
        Assert.Equal(one with { RoundMilliseconds = 0 }, two with { RoundMilliseconds = 0 });
        Assert.NotEqual(one.Seconds, SwarmSimulation.Run(Case(30) with { Seed = 2 }).Seconds);
    }

    // One owner on a slow link, joiners on fast ones: the owner is what all wait for.
    [Fact]
    public void SlowOwner_AllAreDoneWhenItHasSentEverythingOnce()
    {
        SwarmCase slow = Case(8) with { OwnerBytesPerSecond = 400e6 / 8 };
        SwarmResult result = SwarmSimulation.Run(slow);

        Assert.InRange(result.Seconds / slow.LowerBoundSeconds, 1, 1.1);
        Assert.InRange(result.OwnerCopies, 1, 1.1);
    }

    private static SwarmCase Case(int joiners) => new(joiners, 512, 4 << 20, TenGigabit, TenGigabit, TimeSpan.FromMilliseconds(20), TimeSpan.Zero, 1);
}
