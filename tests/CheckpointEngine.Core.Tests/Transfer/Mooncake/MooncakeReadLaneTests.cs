using System.Diagnostics;
using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Mooncake;
using Microsoft.Extensions.Logging.Abstractions;
using static CheckpointEngine.Tests.FakeLibrary;

namespace CheckpointEngine.Tests;

/// <summary>How a lane calls Mooncake's C API: against the stand-in, whose reads are copies within this process.</summary>
[Collection(UsesFakeLibrary.Name)]
public sealed class MooncakeReadLaneTests : IAsyncLifetime
{
    private const int SourceBytes = 1 << 20;
    private readonly MemoryBuffer _source = MemoryBuffer.AllocateAnonymous(SourceBytes);
    private readonly MemoryBuffer _destination = MemoryBuffer.AllocateAnonymous(SourceBytes);
    private MooncakeEngine? _engine;
    private MooncakeOwner? _owner;

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        string library = Fresh();
        new Random(3).NextBytes(_source.GetSpan(0, SourceBytes));
        _engine = await MooncakeEngine.StartAsync(library, IPAddress.Loopback, NullLogger.Instance, Cancel);
        _engine.Register([(_source.Address, SourceBytes)]);         // it is its own peer: what it reads from is in its own descriptor
        _owner = await MooncakeOwner.OpenAsync(_engine, _engine.LocalName, [((ulong)_source.Address, SourceBytes)], HandshakeClientOptions.Default, TimeSpan.FromSeconds(30), Cancel);
    }

    public ValueTask DisposeAsync()
    {
        _engine?.UnregisterAll();
        _engine?.Dispose();
        _source.Dispose();
        _destination.Dispose();
        return ValueTask.CompletedTask;
    }

    private MooncakeReadLane Lane(TimeSpan? stall = null)
    {
        var lane = new MooncakeReadLane(stall is null ? _owner! : _owner! with { StallTimeout = stall.Value });
        lane.Connect();
        return lane;
    }

    private void Submit(MooncakeReadLane lane, int offset, int length, int tag)
        => lane.Submit(new ReadRequest((ulong)_source.Address + (ulong)offset, _destination.Address + offset, length, tag));

    // Keeps as many in flight as may be; each reads another piece.
    private void ReadMany(MooncakeReadLane lane, int count, int length)
    {
        int submitted = 0;
        for (int done = 0; done < count;)
        {
            while (submitted < count && submitted - done < lane.QueueDepth)
            {
                Submit(lane, submitted % (SourceBytes / length) * length, length, submitted++ % lane.QueueDepth);
            }
            ReadCompletion completion = lane.Wait(null);
            if (completion.Status != ReadStatus.Done)
            {
                throw new InvalidOperationException($"{completion.Status}: {lane.Failure}");
            }
            done++;
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(7)]
    public void Read_ManyInFlight_GivesTheBytesAndFreesEveryBatch(int polls)
    {
        Set(Setting.PollsNeeded, polls);
        MooncakeReadLane lane = Lane();
        ReadMany(lane, 1000, 1021);
        Assert.True(_source.GetReadOnlySpan(0, 1000 * 1021).SequenceEqual(_destination.GetReadOnlySpan(0, 1000 * 1021)));
        lane.Dispose();
        AssertClean();
        Assert.Equal(1000, Count(Counter.Submitted));
        Assert.InRange(Count(Counter.Allocated), 1000 / lane.QueueDepth, 1000);
    }

    [Fact]
    public void Read_SteadyState_AllocatesNothing()
    {
        Set(Setting.PollsNeeded, 2);
        using MooncakeReadLane lane = Lane();
        ReadMany(lane, 500, 4096);
        long before = GC.GetAllocatedBytesForCurrentThread();
        ReadMany(lane, 5000, 4096);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Fact]
    public async Task Read_TwoLanesAtOnce_KeepApart()
    {
        Set(Setting.PollsNeeded, 3);
        await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Task.Run(() =>
        {
            using MooncakeReadLane lane = Lane();
            ReadMany(lane, 300, 3001);
        })));
        AssertClean();
        Assert.Equal(1200, Count(Counter.Submitted));
    }

    [Theory]
    [InlineData(6, "refuses")]
    [InlineData(3, "cancelled")]
    [InlineData(2, "invalid")]
    public void Read_ThatFails_TellsHowAndLeavesNothing(int end, string words)
    {
        MooncakeReadLane lane = Lane();
        ReadMany(lane, 10, 1000);
        Set(Setting.PollsNeeded, 5);
        Set(Setting.EndAs, end);
        for (int i = 0; i < 20; i++)
        {
            Submit(lane, i * 1000, 1000, i);
        }
        Assert.Equal(ReadStatus.Broken, lane.Wait(null).Status);
        Assert.Contains(words, lane.Failure, StringComparison.Ordinal);
        Set(Setting.EndAs, 0);
        lane.Dispose();
        AssertClean();
    }

    [Theory]
    [InlineData(2, "more requests", true)]
    [InlineData(8, "transport", true)]
    [InlineData(1, "invalid argument", false)]
    [InlineData(3, "not registered", false)]
    [InlineData(77, "code 77", false)]
    public void Submit_ThatFails_TellsWhyAndAsksForNothing(int code, string words, bool nothingStarted)
    {
        Set(Setting.FailSubmit, code);
        MooncakeReadLane lane = Lane();
        Submit(lane, 0, 100, 5);
        Submit(lane, 100, 100, 6);
        Assert.Equal(new ReadCompletion(5, ReadStatus.Broken), lane.Wait(null));
        Assert.Contains(words, lane.Failure, StringComparison.Ordinal);
        lane.Dispose();
        Assert.Equal(0, Count(Counter.Misuses));
        Assert.Equal(nothingStarted ? 1 : 0, Count(Counter.Engines));      // where some may have started, the engine goes, so that none writes any more
    }

    [Fact]
    public void Poll_ThatFails_BreaksTheLane()
    {
        MooncakeReadLane lane = Lane();
        Set(Setting.FailStatus, 1);
        Submit(lane, 0, 100, 0);
        Assert.Equal(ReadStatus.Broken, lane.Wait(null).Status);
        Set(Setting.FailStatus, 0);
        lane.Dispose();
        AssertClean();
    }

    [Theory]
    [InlineData(2)]
    [InlineData(1000)]
    public void Free_ThatIsBusy_IsTriedAgainAndThenLeft(int times)
    {
        Set(Setting.BusyFrees, times);
        using (MooncakeReadLane lane = Lane())
        {
            ReadMany(lane, 1, 1000);
        }
        Assert.Equal(0, Count(Counter.Misuses));
        Assert.Equal(times == 2 ? 0 : 1, Count(Counter.Batches));
    }

    [Fact]
    public void Read_ThatNeverEnds_StallsAndTakesTheEngineWithIt()
    {
        Set(Setting.NeverEnds, 1);
        MooncakeReadLane lane = Lane(TimeSpan.FromMilliseconds(100));
        Submit(lane, 0, 1000, 3);
        Submit(lane, 1000, 1000, 4);
        Assert.Equal(ReadStatus.Stalled, lane.Wait(null).Status);
        lane.Dispose();
        Assert.Equal(0, Count(Counter.Engines));         // nothing writes to the destination any more
        Assert.Equal(1, Count(Counter.DestroyedBusy));
        Assert.Contains("do not end", _engine!.Failure, StringComparison.Ordinal);

        var next = new MooncakeReadLane(_owner!);
        var failure = Assert.Throws<CheckpointEngineException>(next.Connect);
        Assert.Contains("do not end", failure.Message, StringComparison.Ordinal);
        next.Dispose();
        Assert.Equal(0, Count(Counter.Misuses));
    }

    [Fact]
    public async Task Abandon_WhileAnotherLaneReads_EndsThatLaneFirst()
    {
        Set(Setting.NeverEnds, 1);
        MooncakeReadLane stalled = Lane(TimeSpan.FromMilliseconds(100));
        MooncakeReadLane other = Lane();
        Submit(other, 0, 1000, 0);
        Task<ReadCompletion> reading = Task.Run(() => other.Wait(null), Cancel);
        Submit(stalled, 1000, 1000, 0);
        Assert.Equal(ReadStatus.Stalled, stalled.Wait(null).Status);
        Task ended = Task.Run(stalled.Dispose, Cancel);
        Assert.Equal(ReadStatus.Broken, (await reading).Status);
        Assert.False(ended.IsCompleted);
        other.Dispose();
        await ended;
        Assert.Equal(0, Count(Counter.Engines));
        Assert.Equal(0, Count(Counter.Misuses));
    }

    [Fact]
    public async Task Abort_WhileWaiting_EndsAndWaitsForWhatIsInFlight()
    {
        Set(Setting.NeverEnds, 1);
        MooncakeReadLane lane = Lane();
        Submit(lane, 0, 1000, 0);
        Task<ReadCompletion> waiting = Task.Run(() => lane.Wait(null), Cancel);
        while (Count(Counter.Polls) == 0)
        {
            await Task.Yield();
        }
        lane.Abort();
        Assert.Equal(ReadStatus.Aborted, (await waiting).Status);
        Task ended = Task.Run(lane.Dispose, Cancel);
        Set(Setting.NeverEnds, 0);
        await ended;
        Assert.Equal(1, Count(Counter.Engines));
        AssertClean();
    }

    [Fact]
    public void Timeout_OfTheLibrary_IsAStall()
    {
        Set(Setting.EndAs, 5);
        MooncakeReadLane lane = Lane();
        Submit(lane, 0, 1000, 0);
        Assert.Equal(ReadStatus.Stalled, lane.Wait(null).Status);
        Set(Setting.EndAs, 0);          // it ends after all
        lane.Dispose();
        AssertClean();
    }

    [Fact]
    public void Dispose_WithReadsNotYetGivenToTheLibrary_IsAtOnce()
    {
        MooncakeReadLane lane = Lane();
        Submit(lane, 0, 1000, 0);
        long start = Stopwatch.GetTimestamp();
        lane.Dispose();
        Assert.True(Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(1));
        Assert.Equal(0, Count(Counter.Allocated));
    }
}
