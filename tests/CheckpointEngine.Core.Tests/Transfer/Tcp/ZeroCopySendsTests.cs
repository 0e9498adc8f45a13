using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Tests;

/// <summary>When a range counts as being read, as the kernel's numbers come.</summary>
public sealed class ZeroCopySendsTests : IDisposable
{
    private readonly MemoryBuffer _buffer = MemoryBuffer.AllocateAnonymous(1 << 20);
    private readonly MemoryRegistry _registry = new();
    private readonly ZeroCopySends _sends = new();

    public void Dispose() => _buffer.Dispose();

    // A request of some sends that has ended, on a range that has been taken away: it drains when the request lets go.
    private RegisteredRange Request(int sends)
    {
        ulong address = (ulong)_buffer.Address;
        RegisteredRange range = _registry.Register(_buffer, address, 4096);
        Assert.True(_registry.TryBeginRead(address, 1, out _));
        for (int i = 0; i < sends; i++)
        {
            _sends.Sent();
        }
        _sends.EndRequest(range);
        _ = _registry.UnregisterAsync(range, TimeSpan.Zero);
        return range;
    }

    [Fact]
    public void Request_WithoutSends_IsLetGoOfAtOnce()
    {
        RegisteredRange first = Request(sends: 1);
        Assert.True(Request(sends: 0).Drained.IsCompleted);
        Assert.False(first.Drained.IsCompleted);
    }

    [Fact]
    public void Request_OfThreeSends_IsLetGoOfWithTheLast()
    {
        RegisteredRange range = Request(sends: 3);
        Assert.True(_sends.ReadsFrom(range));
        _sends.Completed(0, 1, wasCopied: false);
        Assert.False(range.Drained.IsCompleted);
        _sends.Completed(2, 2, wasCopied: false);
        Assert.True(range.Drained.IsCompleted);
        Assert.False(_sends.ReadsFrom(range));
        Assert.Equal(0, _sends.UnderWay);
        Assert.False(_sends.WasCopied);
    }

    [Fact]
    public void Completions_InAnyOrder_LetGoOfARangeOnlyWithTheLastOfThem()
    {
        RegisteredRange first = Request(sends: 2);
        RegisteredRange second = Request(sends: 2);
        _sends.Completed(1, 3, wasCopied: false);
        Assert.False(first.Drained.IsCompleted);
        Assert.False(second.Drained.IsCompleted);
        Assert.Equal(4, _sends.UnderWay);
        _sends.Completed(0, 0, wasCopied: true);
        Assert.True(first.Drained.IsCompleted);
        Assert.True(second.Drained.IsCompleted);
        Assert.True(_sends.WasCopied);
    }

    [Fact]
    public void Completions_BeforeTheRequestEnds_LeaveItsRangeAloneUntilThen()
    {
        ulong address = (ulong)_buffer.Address;
        RegisteredRange range = _registry.Register(_buffer, address, 4096);
        Assert.True(_registry.TryBeginRead(address, 1, out _));
        _sends.Sent();
        _sends.Completed(0, 0, wasCopied: false);
        _ = _registry.UnregisterAsync(range, TimeSpan.Zero);
        Assert.False(range.Drained.IsCompleted);
        _sends.EndRequest(range);
        Assert.True(range.Drained.IsCompleted);
    }

    [Fact]
    public void Sends_UpToTheMost_HaveRoomAndNoMore()
    {
        RegisteredRange range = Request(sends: ZeroCopySends.Most);
        Assert.False(_sends.HasRoom);
        _sends.Completed(1, ZeroCopySends.Most - 1, wasCopied: false);
        Assert.False(_sends.HasRoom);
        _sends.Completed(0, 0, wasCopied: false);
        Assert.True(_sends.HasRoom);
        Assert.True(range.Drained.IsCompleted);
    }

    [Fact]
    public void Completions_OfNothingThatWasSent_ChangeNothing()
    {
        RegisteredRange range = Request(sends: 2);
        _sends.Completed(2, uint.MaxValue, wasCopied: false);
        Assert.Equal(2, _sends.UnderWay);
        Assert.False(range.Drained.IsCompleted);
        _sends.Completed(0, uint.MaxValue, wasCopied: false);
        Assert.True(range.Drained.IsCompleted);
        Assert.Equal(0, _sends.UnderWay);
    }

    [Fact]
    public void Numbers_PastTheRingSeveralTimes_StayRight()
    {
        uint next = 0;
        for (int round = 0; round < 5 * ZeroCopySends.Most; round++)
        {
            RegisteredRange range = Request(sends: 3);
            _sends.Completed(next + 1, next + 2, wasCopied: false);
            Assert.False(range.Drained.IsCompleted);
            _sends.Completed(next, next, wasCopied: false);
            Assert.True(range.Drained.IsCompleted);
            next += 3;
        }
    }
}
