using CheckpointEngine.Transfer.Rdma;
using CsCheck;

namespace CheckpointEngine.Tests;

public class DevicePairsTests
{
    private static readonly LocalDeviceState s_well = State(static _ => null);

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
            Assert.Equal(Math.Max(locals, remotes), pairs.Preferred(s_well));
            (int Local, int Remote)[] preferred = [.. taken.Take(pairs.Preferred(s_well))];
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
    public void TryTake_DeviceHereIsDown_GivesThoseOfTheOthersUntilItIsUp()
    {
        var pairs = new DevicePairs(2, 2);
        LocalDeviceState down = State(static local => local == 0 ? "port down" : null);
        Assert.Equal([(1, 1), (1, 0)], TakeAll(pairs, down));
        Assert.Null(pairs.Failure);
        Assert.False(pairs.HasFree(down));
        Assert.True(pairs.Return(1, 1, "broken", ofOwner: false));
        Assert.True(pairs.Return(1, 0, "broken", ofOwner: false));
        Assert.Null(pairs.TryTake(down));
        Assert.NotNull(pairs.Failure);
        Assert.Equal([(0, 0), (0, 1)], TakeAll(pairs, s_well));
        Assert.Null(pairs.Failure);
    }

    [Fact]
    public void Return_Failed_IsTriedAgainWhenTheDeviceHereIsAnother_UnlessTheOwnerFailed()
    {
        var pairs = new DevicePairs(1, 2);
        int epoch = 1;
        LocalDeviceState device = (int _, out int now) =>
        {
            now = epoch;
            return null;
        };
        Assert.Equal((0, 0), pairs.TryTake(device));
        Assert.True(pairs.Return(0, 0, "its GID is no more", ofOwner: false, epoch: 1));
        Assert.Equal((0, 1), pairs.TryTake(device));
        Assert.Null(pairs.TryTake(device));
        epoch = 2;
        Assert.Equal((0, 0), pairs.TryTake(device));
        Assert.True(pairs.Return(0, 0, "of before", ofOwner: false, epoch: 1));      // a lane that saw the device as it was
        Assert.Equal((0, 0), pairs.TryTake(device));
        Assert.True(pairs.Return(0, 1, "gone", ofOwner: true, epoch: 2));
        epoch = 3;
        Assert.Null(pairs.TryTake(device));
        Assert.Equal("gone", pairs.Failure);
    }

    [Fact]
    public void Return_MayHeal_IsTakenAgainAsOftenAsItHasLanes()
    {
        var pairs = new DevicePairs(1, 1, lanes: 2);
        for (int i = 0; i < 2; i++)
        {
            Assert.Equal((0, 0), pairs.TryTake(s_well));
            Assert.False(pairs.Return(0, 0, "nobody answers", ofOwner: false, mayHeal: true));
        }
        Assert.Equal((0, 0), pairs.TryTake(s_well));
        Assert.True(pairs.Return(0, 0, "nobody answers", ofOwner: false, mayHeal: true));
        Assert.Null(pairs.TryTake(s_well));
    }

    [Fact]
    public void TryTake_EveryDeviceHereHasFailed_TellsTheFirstReason()
    {
        var pairs = new DevicePairs(2, 1);
        Assert.Null(pairs.TryTake(State(static local => $"port of {local} down")));
        Assert.Equal("port of 0 down", pairs.Failure);
    }

    [Fact]
    public void TryTake_DeviceFailsWhileItsPairIsTaken_ItIsNotGivenOutUntilItIsUp()
    {
        var pairs = new DevicePairs(1, 1);
        Assert.Equal((0, 0), pairs.TryTake(s_well));
        Assert.Null(pairs.TryTake(State(static _ => "removed")));
        Assert.Equal("removed", pairs.Failure);
        Assert.False(pairs.Return(0, 0, null, ofOwner: false));
        Assert.Null(pairs.TryTake(State(static _ => "removed")));
        Assert.Equal((0, 0), pairs.TryTake(s_well));
    }

    [Fact]
    public void Operations_InAnyOrder_AgreeWithANaiveModel()
        => Gen.Select(Gen.Int[1, 4], Gen.Int[1, 4], Gen.Select(Gen.Int[0, 9], Gen.Int[0, 15]).Array[0, 60]).Sample((locals, remotes, operations) =>
        {
            var pairs = new DevicePairs(locals, remotes);
            List<(int Local, int Remote)> order = TakeAll(new DevicePairs(locals, remotes), s_well);
            var taken = new List<(int Local, int Remote)>();
            var failed = new HashSet<(int Local, int Remote)>();
            bool allFailed = false;
            foreach ((int kind, int which) in operations)
            {
                if (kind < 5)
                {
                    string? Down(int local) => kind == 0 && local == which % locals ? "down" : null;
                    (int Local, int Remote)? got = pairs.TryTake(State(Down));
                    (int Local, int Remote)? expected = null;
                    foreach ((int Local, int Remote) pair in order)
                    {
                        if (!taken.Contains(pair) && !failed.Contains(pair) && Down(pair.Local) is null)
                        {
                            expected = pair;
                            break;
                        }
                    }
                    if (kind != 0)
                    {
                        Assert.Equal(expected, got);
                    }
                    else if (got is { } other)      // the rails are others without that device
                    {
                        Assert.False(taken.Contains(other) || failed.Contains(other) || Down(other.Local) is not null);
                    }
                    Assert.Equal(expected is null, got is null);
                    taken.AddRange(got is null ? [] : [got.Value]);
                    allFailed = got is null && order.TrueForAll(pair => failed.Contains(pair) || Down(pair.Local) is not null);
                }
                else if (taken.Count != 0)
                {
                    (int Local, int Remote) pair = taken[which % taken.Count];
                    taken.Remove(pair);
                    bool fails = kind >= 8;
                    Assert.Equal(fails && !failed.Contains(pair), pairs.Return(pair.Local, pair.Remote, fails ? "broken" : null, ofOwner: kind == 9 && which == 0));
                    bool isNew = fails && !failed.Contains(pair);
                    failed.UnionWith(isNew ? kind == 9 && which == 0 ? order : [pair] : []);
                    allFailed |= isNew && failed.Count == order.Count;
                }
                Assert.Equal(allFailed, pairs.Failure is not null);
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

    private static LocalDeviceState State(Func<int, string?> failure) => (int local, out int epoch) =>
    {
        epoch = 0;
        return failure(local);
    };

    private static List<(int Local, int Remote)> TakeAll(DevicePairs pairs, LocalDeviceState localFailure)
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
        Assert.Equal(4, pairs.Preferred(s_well));
        Assert.Equal([(0, 0), (1, 1), (0, 0), (1, 1), (0, 1)], Enumerable.Range(0, 5).Select(_ => pairs.TryTake(s_well)!.Value));

        pairs.Return(1, 1, null, ofOwner: false);

        Assert.Equal((1, 1), pairs.TryTake(s_well));
        Assert.True(pairs.HasFree(s_well));
    }

    [Fact]
    public void TryTake_DeviceHereIsDown_OtherRailsStayAndItsPartIsShared()
    {
        var pairs = new DevicePairs(4, 4);
        LocalDeviceState down = State(static local => local == 1 ? "port down" : null);
        Assert.Equal(4, pairs.Preferred(down));
        Assert.Equal([(0, 0), (2, 2), (3, 3), (0, 1)], TakeAll(pairs, down).Take(4));
        Assert.Equal(3, new DevicePairs(4, 1).Preferred(down));
        Assert.Equal([(1, 1), (2, 0)], TakeAll(new DevicePairs(3, 2), State(static local => local == 0 ? "port down" : null)).Take(2));
    }

    [Fact]
    public void TryLeave_DeviceIsBack_AsManyLanesMoveAsItHasRoomFor()
    {
        var pairs = new DevicePairs(2, 2, lanes: 2);
        LocalDeviceState down = State(static local => local == 1 ? "port down" : null);
        Assert.Equal([(0, 0), (0, 1), (0, 0), (0, 1)], Enumerable.Range(0, 4).Select(_ => pairs.TryTake(down)!.Value));
        Assert.False(pairs.TryLeave((0, 1), down));

        Assert.False(pairs.TryLeave((0, 0), s_well));       // it is on a rail
        Assert.True(pairs.TryLeave((0, 1), s_well));
        Assert.True(pairs.TryLeave((0, 1), s_well));
        Assert.False(pairs.TryLeave((0, 1), s_well));       // room is for two
        for (int i = 0; i < 2; i++)
        {
            pairs.Return(0, 1, null, ofOwner: false);
            pairs.Left();
            Assert.Equal((1, 1), pairs.TryTake(s_well));
        }
        Assert.False(pairs.TryLeave((0, 1), s_well));
        Assert.False(pairs.TryLeave(null, s_well));
    }

    [Fact]
    public void TryLeave_EveryDeviceIsBack_LanesOfAnotherPlaneMoveToo()
    {
        var pairs = new DevicePairs(1, 1);
        Assert.Null(pairs.TryTake(State(static _ => "port down")));
        Assert.False(pairs.TryLeave(null, State(static _ => "port down")));
        Assert.True(pairs.TryLeave(null, s_well));
        Assert.False(pairs.TryLeave(null, s_well));
    }

    [Fact]
    public void TryLeave_PairOfTheRailHasFailed_NobodyMovesThere()
    {
        var pairs = new DevicePairs(2, 2);
        TakeAll(pairs, s_well);
        Assert.True(pairs.Return(1, 1, "nobody answers", ofOwner: false));
        Assert.False(pairs.TryLeave((0, 1), s_well));
    }

    [Fact]
    public void TryLeave_DeviceComesAndGoesWithoutEnd_MovesEnd()
    {
        var pairs = new DevicePairs(2, 2);
        int moves = 0;
        while (moves < 1000 && pairs.TryLeave((0, 1), s_well))
        {
            pairs.Left();
            moves++;
        }
        Assert.InRange(moves, 1, 64);
    }
}
