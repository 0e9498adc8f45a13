using CheckpointEngine.Relay;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>What a joiner reads next, and from whom.</summary>
public sealed class UnitBoardTests
{
    // Any order of what can happen to units: none is taken twice at a time, none is lost, and the counts are right.
    [Fact]
    public void AnyOrder_NoUnitIsReadTwiceAtATimeAndAllCome()
        => Gen.Select(Gen.Int[1, 40], Gen.Int[0, int.MaxValue]).Sample((units, seed) =>
        {
            var random = new Random(seed);
            var board = new UnitBoard([.. Enumerable.Range(1, units)], 3, new Random(seed));
            var inFlight = new HashSet<int>();
            var done = new HashSet<int>();
            var relays = new HashSet<int>();
            for (int step = 0; done.Count < units; step++)
            {
                Assert.True(step < 100_000);
                switch (random.Next(step < 1000 ? 7 : 5))
                {
                    case 0:
                        board.Give([.. Enumerable.Range(0, 3).Select(_ => random.Next(units))]);
                        break;
                    case 1:
                        if (board.AddRelay() is >= 0 and int added)
                        {
                            Assert.True(relays.Add(added));
                        }
                        foreach (int relay in relays)
                        {
                            board.RelayHas(relay, [random.Next(units), random.Next(units), units, -1]);
                        }
                        break;
                    case 2:
                        bool has = board.HasGiven(null);
                        Assert.Equal(has, board.TryTakeGiven(null, out int given));
                        Begin(has, given);
                        break;
                    case 3 when relays.Count != 0:
                        int from = relays.First();
                        bool offers = board.HasUnitOf(from, null);
                        Assert.Equal(offers, board.TryTakeFrom(from, null, out int unit));
                        Begin(offers, unit);
                        break;
                    case 4 when inFlight.Count != 0:
                        int came = inFlight.First();
                        inFlight.Remove(came);
                        done.Add(came);
                        board.Complete(came, offer: came % 2 == 0);
                        break;
                    case 5 when inFlight.Count != 0:
                        int lost = inFlight.First();
                        inFlight.Remove(lost);
                        board.GiveBack(lost);
                        break;
                    case 6 when relays.Count != 0:
                        int left = relays.First();
                        relays.Remove(left);
                        board.RemoveRelay(left);
                        break;
                }
                Assert.Equal(done.Count, board.Done);
                Assert.Equal(Enumerable.Range(0, units).Where(unit => !done.Contains(unit) && !inFlight.Contains(unit)).Sum(unit => unit + 1), board.MissingBytes);
            }
            Assert.Equal(0, board.Pending);
            Assert.Equal(done.Where(unit => unit % 2 == 0).Order(), board.LogFrom(0).ToArray().Order());

            void Begin(bool any, int unit)
            {
                if (any)
                {
                    Assert.True(inFlight.Add(unit));
                    Assert.DoesNotContain(unit, done);
                }
            }
        }, iter: 200, threads: 1);

    [Fact]
    public void TryTakeFrom_OfWhatARelayHas_PrefersWhatFewHave()
    {
        var board = new UnitBoard([4, 4, 4, 4], 3, new Random(1));
        int one = board.AddRelay();
        int two = board.AddRelay();
        board.RelayHas(one, [0, 1, 2, 3]);
        board.RelayHas(two, [0, 1, 3]);

        Assert.True(board.TryTakeFrom(one, null, out int unit));

        Assert.Equal(2, unit);
    }

    [Fact]
    public void TryTake_OfWhatMayNotBeReadYet_WaitsForIt()
    {
        var board = new UnitBoard([4, 4], 1, new Random(1));
        int relay = board.AddRelay();
        board.RelayHas(relay, [1]);
        board.Give([0]);
        int known = 0;
        bool MayTake(int unit) => unit < known;

        Assert.False(board.HasGiven(MayTake));
        Assert.False(board.TryTakeFrom(relay, MayTake, out _));
        known = 2;
        Assert.True(board.TryTakeGiven(MayTake, out int given));
        Assert.True(board.TryTakeFrom(relay, MayTake, out int taken));
        Assert.Equal((0, 1), (given, taken));
    }

    [Fact]
    public void FindWanted_OnlyWhenNothingElseIsThereToRead()
    {
        var board = new UnitBoard([4, 4, 4], 1, new Random(1));
        Assert.Equal([0, 1, 2], board.FindWanted(64).Order());
        Assert.Single(board.FindWanted(1));
        board.Give([0]);
        Assert.Empty(board.FindWanted(64));
        Assert.True(board.TryTakeGiven(null, out _));
        Assert.Equal([1, 2], board.FindWanted(64).Order());
        int relay = board.AddRelay();
        board.RelayHas(relay, [1]);
        Assert.Empty(board.FindWanted(64));
        Assert.True(board.TryTakeFrom(relay, null, out _));
        Assert.Equal([2], board.FindWanted(64));
    }

    [Fact]
    public async Task WaitForLogAsync_EndsWithTheNextUnitThatMayBeOffered()
    {
        var board = new UnitBoard([4, 4], 1, new Random(1));
        Task waits = board.WaitForLogAsync(0, TestContext.Current.CancellationToken);
        board.Complete(0, offer: false);
        Assert.False(waits.IsCompleted);
        board.Complete(1, offer: true);
        await waits;
        Assert.True(board.WaitForLogAsync(0, TestContext.Current.CancellationToken).IsCompletedSuccessfully);
    }
}
