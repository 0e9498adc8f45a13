using CheckpointEngine.Transfer.Rdma;
using CsCheck;

namespace CheckpointEngine.Tests;

public class DevicePairsTests
{
    private static readonly Func<int, string?> s_well = static _ => null;

    [Theory]
    [InlineData(1, 1, "0-0")]
    [InlineData(2, 2, "0-0 1-1 0-1 1-0")]
    [InlineData(1, 3, "0-0 0-1 0-2")]
    [InlineData(3, 1, "0-0 1-0 2-0")]
    [InlineData(2, 3, "0-0 1-1 0-2 0-1 1-0 1-2")]
    public void TryTake_UntilNoneIsLeft_GivesTheSameRailFirst(int locals, int remotes, string expected)
        => Assert.Equal(expected, string.Join(' ', TakeAll(new DevicePairs(locals, remotes), s_well).Select(pair => $"{pair.Local}-{pair.Remote}")));

    [Fact]
    public void TryTake_AnyNumbersOfDevices_GivesEveryPairOnceAndTheBusiestDeviceLittleMore()
        => Gen.Select(Gen.Int[1, 16], Gen.Int[1, 16]).Sample((locals, remotes) =>
        {
            var pairs = new DevicePairs(locals, remotes);
            List<(int Local, int Remote)> taken = TakeAll(pairs, s_well);
            Assert.Equal(locals * remotes, taken.Distinct().Count());
            Assert.Equal(locals * remotes, taken.Count);
            Assert.All(taken, pair => Assert.True(pair.Local < locals && pair.Remote < remotes));
            Assert.Equal(Math.Max(locals, remotes), pairs.Preferred);
            (int Local, int Remote)[] preferred = [.. taken.Take(pairs.Preferred)];
            Assert.Equal(locals, preferred.DistinctBy(pair => pair.Local).Count());
            Assert.Equal(remotes, preferred.DistinctBy(pair => pair.Remote).Count());
            int[] uses = [.. preferred.CountBy(pair => locals < remotes ? pair.Local : pair.Remote).Select(count => count.Value)];
            Assert.InRange(uses.Max() - uses.Min(), 0, 1);
            Assert.All(preferred.Take(Math.Min(locals, remotes)), pair => Assert.Equal(pair.Local, pair.Remote));
            Assert.Null(pairs.Failure);       // all are taken, none has failed
        });

    [Fact]
    public void Return_Well_IsTakenAgainFirst()
    {
        var pairs = new DevicePairs(2, 2);
        TakeAll(pairs, s_well);
        Assert.False(pairs.Return(1, 0, null, ofOwner: false));
        Assert.False(pairs.Return(1, 1, null, ofOwner: false));
        Assert.Equal([(1, 1), (1, 0)], TakeAll(pairs, s_well));
    }

    [Fact]
    public void Return_Failed_NextPairsTakeOverUntilTheLastFails()
    {
        var pairs = new DevicePairs(2, 2);
        var tried = new List<(int, int)>();
        for (int i = 0; i < 4; i++)
        {
            Assert.Null(pairs.Failure);
            (int local, int remote) = pairs.TryTake(s_well)!.Value;
            tried.Add((local, remote));
            Assert.True(pairs.Return(local, remote, $"reason {i}", ofOwner: false));
        }
        Assert.Equal([(0, 0), (1, 1), (0, 1), (1, 0)], tried);
        Assert.Equal("reason 3", pairs.Failure);
        Assert.Null(pairs.TryTake(s_well));
        Assert.Equal("reason 3", pairs.Failure);
    }

    [Fact]
    public void Return_FailedOfOwner_NoPairIsLeft()
    {
        var pairs = new DevicePairs(2, 3);
        Assert.Equal((0, 0), pairs.TryTake(s_well));
        Assert.Equal((1, 1), pairs.TryTake(s_well));
        Assert.True(pairs.Return(1, 1, "gone", ofOwner: true));
        Assert.Equal("gone", pairs.Failure);
        Assert.Null(pairs.TryTake(s_well));
        Assert.False(pairs.Return(0, 0, "a later reason", ofOwner: false));      // known: not to be told twice
        Assert.Equal("gone", pairs.Failure);
        Assert.Null(pairs.TryTake(s_well));
    }

    [Fact]
    public void Return_FailedTwice_KeepsTheFirstReason()
    {
        var pairs = new DevicePairs(1, 1);
        pairs.TryTake(s_well);
        Assert.True(pairs.Return(0, 0, "first", ofOwner: false));
        Assert.False(pairs.Return(0, 0, "second", ofOwner: true));
        Assert.Equal("first", pairs.Failure);
    }

    [Fact]
    public void TryTake_DeviceHereHasFailed_GivesThoseOfTheOthersAndStaysAway()
    {
        var pairs = new DevicePairs(2, 2);
        Assert.Equal([(1, 1), (1, 0)], TakeAll(pairs, static local => local == 0 ? "port down" : null));
        Assert.Null(pairs.Failure);
        Assert.Null(pairs.TryTake(s_well));                                      // what has failed stays failed
        Assert.True(pairs.Return(1, 1, "broken", ofOwner: false));
        Assert.Null(pairs.Failure);
        Assert.True(pairs.Return(1, 0, "broken", ofOwner: false));
        Assert.Equal("broken", pairs.Failure);
    }

    [Fact]
    public void TryTake_EveryDeviceHereHasFailed_TellsTheFirstReason()
    {
        var pairs = new DevicePairs(2, 1);
        Assert.Null(pairs.TryTake(static local => $"port of {local} down"));
        Assert.Equal("port of 0 down", pairs.Failure);
    }

    [Fact]
    public void TryTake_DeviceFailsWhileItsPairIsTaken_ItIsNotGivenOutAgain()
    {
        var pairs = new DevicePairs(1, 1);
        Assert.Equal((0, 0), pairs.TryTake(s_well));
        Assert.Null(pairs.TryTake(static _ => "removed"));
        Assert.Equal("removed", pairs.Failure);
        Assert.False(pairs.Return(0, 0, null, ofOwner: false));
        Assert.Null(pairs.TryTake(s_well));
    }

    [Fact]
    public void Operations_InAnyOrder_AgreeWithANaiveModel()
        => Gen.Select(Gen.Int[1, 4], Gen.Int[1, 4], Gen.Select(Gen.Int[0, 9], Gen.Int[0, 15]).Array[0, 60]).Sample((locals, remotes, operations) =>
        {
            var pairs = new DevicePairs(locals, remotes);
            List<(int Local, int Remote)> order = TakeAll(new DevicePairs(locals, remotes), s_well);
            var taken = new List<(int Local, int Remote)>();
            var failed = new HashSet<(int Local, int Remote)>();
            foreach ((int kind, int which) in operations)
            {
                if (kind < 5)
                {
                    string? Down(int local) => kind == 0 && local == which % locals ? "down" : null;
                    (int, int)? got = pairs.TryTake(Down);
                    (int Local, int Remote)? expected = null;
                    foreach ((int Local, int Remote) pair in order)
                    {
                        if (Down(pair.Local) is not null)
                        {
                            failed.Add(pair);
                        }
                        if (!taken.Contains(pair) && !failed.Contains(pair))
                        {
                            expected = pair;
                            taken.Add(pair);
                            break;
                        }
                    }
                    Assert.Equal(expected, got);
                }
                else if (taken.Count != 0)
                {
                    (int Local, int Remote) pair = taken[which % taken.Count];
                    taken.Remove(pair);
                    bool fails = kind >= 8;
                    Assert.Equal(fails && !failed.Contains(pair), pairs.Return(pair.Local, pair.Remote, fails ? "broken" : null, ofOwner: kind == 9 && which == 0));
                    failed.UnionWith(fails && !failed.Contains(pair) ? kind == 9 && which == 0 ? order : [pair] : []);
                }
                // What a device's failure takes is known when all was looked at, which a pair found ends early.
                Assert.Equal(failed.Count == order.Count, pairs.Failure is not null);
            }
        }, iter: 5000);

    [Fact]
    public async Task TryTake_ManyThreads_NoPairHasTwo()
    {
        var pairs = new DevicePairs(2, 2);
        int[] holders = new int[4];
        int twice = 0;
        int takes = 0;
        using var ready = new Barrier(6);
        await Task.WhenAll(Enumerable.Range(0, 6).Select(_ => Task.Factory.StartNew(() =>
        {
            ready.SignalAndWait();
            for (int i = 0; i < 5000; i++)
            {
                if (pairs.TryTake(s_well) is (int local, int remote))
                {
                    Interlocked.Increment(ref takes);
                    if (Interlocked.Increment(ref holders[2 * local + remote]) != 1)
                    {
                        Interlocked.Increment(ref twice);
                    }
                    Interlocked.Decrement(ref holders[2 * local + remote]);
                    pairs.Return(local, remote, null, ofOwner: false);
                }
            }
        }, TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default)));
        Assert.Equal(0, twice);
        Assert.NotEqual(0, takes);
        Assert.Equal(4, TakeAll(pairs, s_well).Count);
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(1, 0)]
    public void Constructor_NoDevice_IsRefused(int locals, int remotes) => Assert.Throws<ArgumentOutOfRangeException>(() => new DevicePairs(locals, remotes));

    private static List<(int Local, int Remote)> TakeAll(DevicePairs pairs, Func<int, string?> localFailure)
    {
        var taken = new List<(int Local, int Remote)>();
        while (pairs.TryTake(localFailure) is (int local, int remote))
        {
            taken.Add((local, remote));
        }
        return taken;
    }

    [Fact]
    public void TryTake_SeveralLanesAPair_SharesThemEvenlyOnTheRailsFirst()
    {
        var pairs = new DevicePairs(2, 2, lanes: 2);
        Assert.Equal(4, pairs.Preferred);
        Assert.Equal([(0, 0), (1, 1), (0, 0), (1, 1), (0, 1)], Enumerable.Range(0, 5).Select(_ => pairs.TryTake(static _ => null)!.Value));

        pairs.Return(1, 1, null, ofOwner: false);

        Assert.Equal((1, 1), pairs.TryTake(static _ => null));
        Assert.True(pairs.HasFree);
    }
}
