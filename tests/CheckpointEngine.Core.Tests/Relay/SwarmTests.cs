using System.Net;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Tests;

/// <summary>What an owner gives to whom.</summary>
public sealed class SwarmTests
{
    private static readonly TimeSpan s_second = TimeSpan.FromSeconds(1);

    [Fact]
    public void Ask_ByTurns_GivesEachUnitOnce()
    {
        var swarm = new Swarm(100, new Random(1));
        using Swarm.Seat one = Enter(swarm, 1);
        using Swarm.Seat two = Enter(swarm, 2);
        var given = new List<int>();
        int[] had = [0, 0];
        for (int turn = 0; given.Count < 100; turn++)
        {
            SwarmAnswer answer = (turn % 2 == 0 ? one : two).Ask(Request(wanted: 3, done: had[turn % 2]), s_second);
            Assert.InRange(answer.Given!.Length, 1, 3);
            given.AddRange(answer.Given);
            had[turn % 2] += answer.Given.Length;
            Assert.True(turn < 100);
        }

        Assert.Equal(Enumerable.Range(0, 100), given.Order());
        Assert.Empty(one.Ask(Request(wanted: 3, done: had[0]), s_second).Given!);
    }

    [Fact]
    public void Ask_ManyAtOnce_NoMoreAreReadAtATimeThanAreSoonDone()
    {
        var swarm = new Swarm(1000, new Random(1));
        Swarm.Seat[] seats = [.. Enumerable.Range(1, 50).Select(number => Enter(swarm, number))];

        int given = seats.Sum(seat => seat.Ask(Request(units: 1000, wanted: 100), default).Given!.Length);

        Assert.Equal(16, given);
        Assert.All(seats, seat => Assert.InRange(seat.Given.Count, 0, 1));
    }

    [Fact]
    public void Dispose_OfOneThatWasGivenUnits_GivesThemToTheNext()
    {
        var swarm = new Swarm(4, new Random(1));
        Swarm.Seat one = Enter(swarm, 1);
        Assert.Equal([0, 1, 2, 3], one.Ask(Request(units: 4, wanted: 9), default).Given!);
        using Swarm.Seat two = Enter(swarm, 2);
        Assert.Empty(two.Ask(Request(units: 4, wanted: 9), default).Given!);

        one.Dispose();

        Assert.Equal([0, 1, 2, 3], two.Ask(Request(units: 4, wanted: 9), default).Given!);
        Assert.Equal(1, swarm.Count);
    }

    [Fact]
    public void Ask_MembersMustBeGuarded_IsToldOfNoOthers()
    {
        var swarm = new Swarm(4, new Random(1));
        using Swarm.Seat plain = Enter(swarm, 1);
        using Swarm.Seat tls = Enter(swarm, 2);
        Swarm.Seat encrypted = Enter(swarm, 3);
        plain.Ask(Request(units: 4, port: 1), default);
        tls.Ask(Request(units: 4, port: 2) with { Speaks = RelaySecurity.Tls }, default);
        encrypted.Ask(Request(units: 4, port: 3) with { Speaks = RelaySecurity.Encrypted }, default);
        using Swarm.Seat asker = Enter(swarm, 4);

        Assert.Equal([1, 2, 3], Told(RelaySecurity.None));
        Assert.Equal([2, 3], Told(RelaySecurity.Tls));
        Assert.Equal([3], Told(RelaySecurity.Encrypted));
        encrypted.Dispose();
        Assert.Equal([2], Told(RelaySecurity.Tls));
        Assert.Empty(Told(RelaySecurity.Encrypted));

        IEnumerable<int> Told(RelaySecurity demands)
            => asker.Ask(Request(units: 4) with { Members = 8, Demands = demands }, default).Members!.Select(static member => member.Port).Order();
    }

    [Fact]
    public void Ask_OneBringsNothing_WhatItWasGivenGoesToOthers()
    {
        var swarm = new Swarm(4, new Random(1));
        using Swarm.Seat stalled = Enter(swarm, 1);
        using Swarm.Seat other = Enter(swarm, 2);
        Assert.Equal(4, stalled.Ask(Request(units: 4, wanted: 9), s_second).Given!.Length);

        Assert.Empty(other.Ask(Request(units: 4, wanted: 9), s_second + Swarm.StallTime / 2).Given!);
        Assert.Equal(4, other.Ask(Request(units: 4, wanted: 9), s_second + Swarm.StallTime).Given!.Length);
    }

    [Fact]
    public void Ask_UnitsThatNobodyOffers_AreGivenAgainUnlessSomebodyReadsThem()
    {
        var swarm = new Swarm(8, new Random(1));
        Swarm.Seat gone = Enter(swarm, 1);
        gone.Ask(Request(units: 8, wanted: 9), default);
        gone.Ask(Request(units: 8, pending: 2, done: 6), default);       // 0 to 5 came, and went with it
        using Swarm.Seat one = Enter(swarm, 2);
        using Swarm.Seat two = Enter(swarm, 3);

        Assert.Equal([3, 5], one.Ask(Request(units: 8, wanted: 9) with { Missing = [3, 5, 6, 7, 99, -1] }, default).Given!);
        Assert.Equal([4], two.Ask(Request(units: 8, wanted: 9) with { Missing = [3, 4, 5] }, default).Given!);
    }

    [Fact]
    public void Ask_ForMembers_TellsOfThoseThatOfferButNotOfTheAsker()
    {
        var swarm = new Swarm(8, new Random(1));
        using Swarm.Seat one = Enter(swarm, 1);
        using Swarm.Seat silent = Enter(swarm, 2);
        using Swarm.Seat three = Enter(swarm, 3);
        one.Ask(Request(port: 1001), default);
        silent.Ask(Request(), default);
        three.Ask(Request(port: 1003), default);

        Assert.Equal([new IPEndPoint(IPAddress.Parse("10.0.0.3"), 1003)], one.Ask(Request(port: 1001) with { Members = 8 }, default).Members!);
        Assert.Equal(["10.0.0.1:1001", "10.0.0.3:1003"], silent.Ask(Request() with { Members = 8 }, default).Members!.Select(member => member.ToString()).Order(StringComparer.Ordinal));
        Assert.Empty(three.Ask(Request(port: 1003), default).Members!);
    }

    [Fact]
    public void Ask_ForMembersAmongMany_TellsOfEachAboutAsOften()
    {
        var swarm = new Swarm(8, new Random(1));
        Swarm.Seat[] seats = [.. Enumerable.Range(1, 200).Select(number => Enter(swarm, number))];
        for (int i = 0; i < seats.Length; i++)
        {
            seats[i].Ask(Request(port: i + 1), default);
        }
        var told = new int[201];
        for (int i = 0; i < seats.Length; i++)
        {
            IPEndPoint[] members = seats[i].Ask(Request(port: i + 1) with { Members = 8, Readers = told[i + 1] }, default).Members!;
            Assert.Equal(8, members.Length);
            Assert.Equal(8, members.Distinct().Count());
            Array.ForEach(members, member => told[member.Port]++);
        }

        Assert.InRange(told.Max(), 8, 2 * 8);
    }

    [Fact]
    public void Ask_AllAreComplete_NobodyIsIncomplete()
    {
        var swarm = new Swarm(8, new Random(1));
        using Swarm.Seat one = Enter(swarm, 1);
        using Swarm.Seat two = Enter(swarm, 2);
        Assert.Equal(2, one.Ask(Request(units: 8), default).Incomplete);
        Assert.Equal(1, one.Ask(Request(units: 8, done: 8), default).Incomplete);
        Assert.Equal(0, two.Ask(Request(units: 8, done: 8), default).Incomplete);
    }

    [Fact]
    public void Ask_OneIsSilent_NobodyWaitsForIt()
    {
        var swarm = new Swarm(8, new Random(1));
        using Swarm.Seat silent = Enter(swarm, 1);
        using Swarm.Seat done = Enter(swarm, 2);
        silent.Ask(Request(units: 8), s_second);
        Assert.Equal(1, done.Ask(Request(units: 8, done: 8), 2 * s_second).Incomplete);
        Assert.Equal(0, done.Ask(Request(units: 8, done: 8), 5 * s_second).Incomplete);
        Assert.Equal(1, silent.Ask(Request(units: 8), 6 * s_second).Incomplete);
        silent.Dispose();
        Assert.Equal(0, done.Ask(Request(units: 8, done: 8), 7 * s_second).Incomplete);
    }

    [Fact]
    public void Enter_GenerationIsGone_NobodyComesAndWhoIsThereIsTold()
    {
        var table = new SwarmTable(mostUnits: 8);
        Swarm.Seat seat = Assert.IsType<Swarm.Seat>(table.Enter(7, 8, IPAddress.Loopback));
        using var place = new SwarmPlace(table, 7, seat);
        Assert.NotNull(place.Ask(Request(units: 8)));
        Assert.Null(table.Enter(7, 9, IPAddress.Loopback));     // other units under the same layout

        Assert.Null(table.Enter(8, 9, IPAddress.Loopback));     // more than there can be

        table.Close();

        Assert.Null(table.Enter(7, 8, IPAddress.Loopback));
        Assert.Null(place.Ask(Request(units: 8)));
    }

    [Fact]
    public void Dispose_OfTheLastOne_TheNextBeginsAnew()
    {
        var table = new SwarmTable(mostUnits: 8);
        var first = new SwarmPlace(table, 7, table.Enter(7, 8, IPAddress.Loopback)!);
        Assert.Equal(8, first.Ask(Request(units: 8, wanted: 9))!.Value.Given!.Length);
        first.Ask(Request(units: 8, done: 8));
        first.Dispose();
        Assert.Equal(0, table.Members);

        using var second = new SwarmPlace(table, 7, table.Enter(7, 8, IPAddress.Loopback)!);
        Assert.Equal(8, second.Ask(Request(units: 8, wanted: 9))!.Value.Given!.Length);
    }

    private static Swarm.Seat Enter(Swarm swarm, int number) => swarm.Enter(IPAddress.Parse($"10.0.0.{number}"), default);

    private static SwarmRequest Request(int units = 100, int port = 0, int wanted = 0, int pending = 0, int done = 0) => new(0, 0, units, port, 0, 0, wanted, pending, done, []);
}
