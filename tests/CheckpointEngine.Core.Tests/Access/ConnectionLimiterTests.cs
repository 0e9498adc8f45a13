using System.Net;
using CheckpointEngine.Access;

namespace CheckpointEngine.Tests;

/// <summary>Who is let in, who gives way, who waits.</summary>
public sealed class ConnectionLimiterTests : IDisposable
{
    private static readonly IPAddress s_first = IPAddress.Parse("10.0.0.1");
    private static readonly IPAddress s_second = IPAddress.Parse("10.0.0.2");

    private readonly List<string> _closed = [];
    private readonly RecordedLog _log = new();
    private readonly ManualTimeProvider _clock = new();

    public void Dispose() => _log.Dispose();

    private ConnectionLimiter Limiter(int all, int ofAnAddress, int requests = 0) => new("test", new ConnectionLimits(all, ofAnAddress, requests), _log.CreateLogger("limits"), _clock);

    private ConnectionSlot? Enter(ConnectionLimiter limiter, IPAddress? address, string name) => limiter.TryEnter(address, () => _closed.Add(name));

    [Fact]
    public void Enter_Full_ClosesTheOneThatHasWaitedLongest()
    {
        ConnectionLimiter limiter = Limiter(2, 2);
        using ConnectionSlot? a = Enter(limiter, s_first, "a");
        using ConnectionSlot? b = Enter(limiter, s_second, "b");
        using ConnectionSlot? c = Enter(limiter, s_second, "c");
        Assert.NotNull(c);
        Assert.Equal(["a"], _closed);
        Assert.Equal((2, 0L, 1L), (limiter.Count, limiter.RefusedCount, limiter.DisplacedCount));
        a!.Dispose();
        a.Dispose();
        Assert.Equal(2, limiter.Count);      // it had left already
    }

    [Fact]
    public void Enter_FullOfThoseInUse_IsRefused()
    {
        ConnectionLimiter limiter = Limiter(2, 2);
        using ConnectionSlot? a = Enter(limiter, s_first, "a");
        using ConnectionSlot? b = Enter(limiter, s_first, "b");
        a!.BeginUse();
        b!.BeginUse();
        Assert.Null(Enter(limiter, s_second, "c"));
        Assert.Equal(1, limiter.RefusedCount);
        b.EndUse();
        Assert.NotNull(Enter(limiter, s_second, "d"));
        Assert.Equal(["b"], _closed);
    }

    [Fact]
    public void Enter_OneInUseTwice_GivesWayOnlyWhenBothUsesAreOver()
    {
        ConnectionLimiter limiter = Limiter(1, 1);
        ConnectionSlot slot = Enter(limiter, s_first, "a")!;
        slot.BeginUse();
        slot.BeginUse();
        slot.EndUse();
        Assert.Null(Enter(limiter, s_first, "b"));
        slot.EndUse();
        Assert.NotNull(Enter(limiter, s_first, "c"));
    }

    [Fact]
    public void Enter_AddressIsFull_TakesThePlaceOfOneOfItsOwn()
    {
        ConnectionLimiter limiter = Limiter(10, 2);
        ConnectionSlot? other = Enter(limiter, s_second, "other");
        ConnectionSlot? a = Enter(limiter, s_first, "a");
        ConnectionSlot? b = Enter(limiter, s_first, "b");
        Assert.NotNull(Enter(limiter, s_first, "c"));
        Assert.Equal(["a"], _closed);
        b!.BeginUse();
        Assert.NotNull(Enter(limiter, s_first, "d"));
        Assert.Equal(["a", "c"], _closed);
        Assert.NotNull(other);
        Assert.NotNull(a);
    }

    [Fact]
    public void Enter_AddressIsFullOfThoseInUse_IsRefusedAndOthersAreNot()
    {
        ConnectionLimiter limiter = Limiter(10, 1);
        Enter(limiter, s_first, "a")!.BeginUse();
        Assert.Null(Enter(limiter, s_first, "b"));
        Assert.NotNull(Enter(limiter, s_second, "c"));
    }

    [Theory]
    [InlineData("10.0.0.1", "::ffff:10.0.0.1", true)]
    [InlineData("10.0.0.1", "10.0.0.2", false)]
    [InlineData("2001:db8::1", "2001:db8::ffff:1", true)]
    [InlineData("2001:db8::1", "2001:db8:0:1::1", false)]
    public void Enter_AddressesOfOneSubscriber_CountAsOne(string first, string second, bool areOne)
    {
        ConnectionLimiter limiter = Limiter(10, 1);
        Enter(limiter, IPAddress.Parse(first), "a")!.BeginUse();
        Assert.Equal(areOne, Enter(limiter, IPAddress.Parse(second), "b") is null);
    }

    [Fact]
    public void Enter_OverAUnixSocket_CountsInAllAlone()
    {
        ConnectionLimiter limiter = Limiter(3, 1);
        for (int i = 0; i < 3; i++)
        {
            Enter(limiter, null, "a")!.BeginUse();
        }
        Assert.Null(Enter(limiter, null, "b"));
    }

    [Fact]
    public void Requests_AboveTheRate_WaitAndAreRefusedAtLast()
    {
        ConnectionLimiter limiter = Limiter(10, 10, requests: 10);
        ConnectionSlot a = Enter(limiter, s_first, "a")!;
        ConnectionSlot b = Enter(limiter, s_first, "b")!;
        ConnectionSlot other = Enter(limiter, s_second, "other")!;
        for (int i = 0; i < 10; i++)
        {
            Assert.Equal(TimeSpan.Zero, a.TakeRequest());       // a second's worth at once
        }
        Assert.Equal(TimeSpan.FromMilliseconds(100), b.TakeRequest());      // the address counts, not the connection
        Assert.Equal(TimeSpan.Zero, other.TakeRequest());
        for (int i = 2; i <= 50; i++)
        {
            Assert.Equal(TimeSpan.FromMilliseconds(100 * i), a.TakeRequest());
        }
        Assert.Null(a.TakeRequest());
        Assert.Equal(1, limiter.RefusedRequestCount);
        _clock.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal(TimeSpan.FromMilliseconds(4100), a.TakeRequest());
    }

    [Fact]
    public void Requests_OfAnAddressThatComesBack_AreStillCounted()
    {
        ConnectionLimiter limiter = Limiter(10, 10, requests: 1);
        for (int i = 0; i < 6; i++)
        {
            using ConnectionSlot slot = Enter(limiter, s_first, "a")!;
            Assert.Equal(TimeSpan.FromSeconds(i), slot.TakeRequest());
        }
        using ConnectionSlot last = Enter(limiter, s_first, "a")!;
        Assert.Null(last.TakeRequest());
    }

    [Fact]
    public void Flood_OfAnyLength_IsLoggedOnceInTenSeconds()
    {
        ConnectionLimiter limiter = Limiter(1, 1);
        for (int i = 0; i < 1000; i++)
        {
            Enter(limiter, s_first, "a");
        }
        Assert.Equal(999, limiter.DisplacedCount);
        Assert.Single(_log.Of("limits"));
        _clock.Advance(TimeSpan.FromSeconds(11));
        Enter(limiter, s_first, "a");
        Assert.Contains("1000 that waited", _log.Of("limits")[1], StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0, 1, 0)]
    [InlineData(1, 0, 0)]
    [InlineData(1, 1, -1)]
    public void Limits_ThatLetNobodyIn_AreRefused(int all, int ofAnAddress, int requests)
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => Limiter(all, ofAnAddress, requests));
        Assert.Throws<ArgumentOutOfRangeException>(() => new ParameterServer(new ParameterServerOptions { Limits = { Peers = new ConnectionLimits(all, ofAnAddress, requests) } }));
    }
}
