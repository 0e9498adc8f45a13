using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>A plane that is told of ranges: before peers may read them, and before their owner may free them.</summary>
public sealed class MemoryRegistryObserveTests
{
    private static readonly TimeSpan s_long = TimeSpan.FromSeconds(20);
    private static readonly MemoryBuffer s_nobody = MemoryBuffer.Borrow(4096, 4096);

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public void Register_Observed_IsToldOfEveryRangeBeforeAnyCanBeRead()
    {
        var registry = new MemoryRegistry();
        var told = new List<RegisteredRange>();
        RegisteredRange[] ranges = [Range(3000), Range(1000), Range(2000)];
        registry.Observe(range =>
        {
            told.Add(range);
            Assert.Equal(0, registry.Ranges.Length);
            Assert.All(ranges, other => Assert.False(registry.TryBeginRead(other.Address, 1, out _)));
        }, _ => Assert.Fail("none is taken away"));
        registry.Register(ranges);
        Assert.Equal(ranges, told);
        Assert.All(ranges, range => Assert.True(registry.TryFind(range.Address, range.LengthBytes, out _)));
    }

    [Fact]
    public async Task Register_WhileTheObserverTakesItsTime_HoldsNoLock()
    {
        var registry = new MemoryRegistry();
        RegisteredRange slow = Range(1000);
        RegisteredRange quick = Range(5000);
        using var entered = new ManualResetEventSlim();
        using var mayLeave = new ManualResetEventSlim();
        registry.Observe(range =>
        {
            if (range == slow)
            {
                entered.Set();
                Assert.True(mayLeave.Wait(s_long, Token));
            }
        }, _ => { });
        Task registering = Task.Factory.StartNew(() => registry.Register([slow]), Token, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        Assert.True(entered.Wait(s_long, Token));
        await Task.Run(() => registry.Register([quick]), Token).WaitAsync(s_long, Token);
        Assert.Equal([quick], registry.Ranges.ToArray());
        Assert.True(await registry.UnregisterAsync(quick, s_long));
        Assert.False(registering.IsCompleted);
        mayLeave.Set();
        await registering.WaitAsync(s_long, Token);
        Assert.Equal([slow], registry.Ranges.ToArray());
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Register_ObserverThrows_AllIsUndone(int at)
    {
        var registry = new MemoryRegistry();
        RegisteredRange before = Range(500);
        RegisteredRange[] ranges = [Range(1000), Range(2000), Range(3000), Range(4000)];
        var told = new List<RegisteredRange>();
        var taken = new List<RegisteredRange>();
        var refusal = new CheckpointEngineException(CheckpointError.OutOfMemory, "no room");
        bool refuses = true;
        registry.Observe(range =>
        {
            if (refuses && range == ranges[at])
            {
                throw refusal;
            }
            told.Add(range);
        }, taken.Add);
        registry.Register([before]);
        Assert.Same(refusal, Assert.Throws<CheckpointEngineException>(() => registry.Register(ranges)));
        Assert.Equal([before, .. ranges[..at]], told);
        Assert.Equal(ranges[..at], taken);            // not the one that was refused, and none behind it
        Assert.Equal([before], registry.Ranges.ToArray());

        refuses = false;
        registry.Register(ranges);
        Assert.Equal([before, .. ranges], registry.Ranges.ToArray());
        Assert.Equal(ranges[..at], taken);
    }

    [Fact]
    public void Register_Overlap_TheObserverIsToldThatAllAreGone()
    {
        var registry = new MemoryRegistry();
        var known = new List<RegisteredRange>();
        registry.Observe(known.Add, range => Assert.True(known.Remove(range)));
        RegisteredRange before = Range(1000);
        registry.Register([before]);
        Assert.Equal(CheckpointError.AlreadyExists, Assert.Throws<CheckpointEngineException>(() => registry.Register([Range(5000), Range(1050), Range(9000)])).Error);
        Assert.Equal([before], known);
        Assert.Equal([before], registry.Ranges.ToArray());
        Assert.True(registry.TryFind(1000, 100, out _));
    }

    [Fact]
    public async Task Unregister_Observed_IsToldWhenNoReadCanBeginAndBeforeItCompletes()
    {
        var registry = new MemoryRegistry();
        RegisteredRange range = Range(1000);
        RegisteredRange other = Range(2000);
        using var entered = new ManualResetEventSlim();
        using var mayLeave = new ManualResetEventSlim();
        var taken = new List<RegisteredRange>();
        registry.Observe(_ => { }, gone =>
        {
            taken.Add(gone);
            entered.Set();
            Assert.True(mayLeave.Wait(s_long, Token));
        });
        registry.Register([range, other]);
        Task<bool> unregistering = Task.Factory.StartNew(() => registry.UnregisterAsync(range, s_long), Token, TaskCreationOptions.LongRunning, TaskScheduler.Default).Unwrap();
        Assert.True(entered.Wait(s_long, Token));
        Assert.False(registry.TryBeginRead(1000, 1, out _));
        Assert.False(range.TryBeginRead());            // as who found it just before
        Assert.True(range.Drained.IsCompleted);        // no read is under way: what it waits for is the observer
        Assert.False(unregistering.IsCompleted);
        Assert.True(registry.TryBeginRead(2000, 1, out _));
        other.EndRead();
        mayLeave.Set();
        Assert.True(await unregistering.WaitAsync(s_long, Token));
        Assert.Equal([range], taken);
    }

    [Fact]
    public async Task Unregister_WhileAReadIsUnderWay_TheObserverIsToldAtOnce()
    {
        var registry = new MemoryRegistry();
        RegisteredRange range = Range(1000);
        var taken = new List<RegisteredRange>();
        registry.Observe(_ => { }, taken.Add);
        registry.Register([range]);
        Assert.True(registry.TryBeginRead(1000, 100, out _));
        Task<bool> unregistering = registry.UnregisterAsync(range, s_long);
        Assert.Equal([range], taken);
        Assert.False(unregistering.IsCompleted);
        range.EndRead();
        Assert.True(await unregistering);
        Assert.Equal([range], taken);
    }

    [Fact]
    public async Task Unregister_AgainOrUnknown_IsNotTold()
    {
        var registry = new MemoryRegistry();
        RegisteredRange range = Range(1000);
        RegisteredRange stranger = Range(5000);
        var taken = new List<RegisteredRange>();
        registry.Observe(_ => { }, taken.Add);
        registry.Register([range]);
        Assert.True(await registry.UnregisterAsync([range, range], s_long));
        Assert.True(await registry.UnregisterAsync(range, s_long));
        await registry.UnregisterAsync(stranger, TimeSpan.Zero);
        Assert.Equal([range], taken);
    }

    [Fact]
    public void Operations_InAnyOrder_TheObserverKnowsWhatIsRegistered()
        => Gen.Select(Gen.Int[0, 3], Gen.Int[1, 40].Array[1, 3], Gen.Int[0, 4]).Array[0, 40].Sample(operations =>
        {
            var registry = new MemoryRegistry();
            var known = new HashSet<RegisteredRange>();
            int refuseAfter = -1;
            registry.Observe(range =>
            {
                if (refuseAfter-- == 0)
                {
                    throw new CheckpointEngineException(CheckpointError.OutOfMemory, "no room");
                }
                Assert.True(known.Add(range));
            }, range => Assert.True(known.Remove(range)));
            foreach ((int kind, int[] places, int refuse) in operations)
            {
                if (kind != 0)
                {
                    refuseAfter = kind == 1 ? refuse : -1;
                    try
                    {
                        registry.Register(Array.ConvertAll(places, place => Range(100 * (ulong)place)));
                    }
                    catch (CheckpointEngineException refused)
                    {
                        Assert.True(refused.Error is CheckpointError.OutOfMemory or CheckpointError.AlreadyExists, refused.ToString());
                    }
                }
                else if (registry.Ranges.Length != 0)
                {
                    RegisteredRange[] going = [.. places.Select(place => registry.Ranges[place % registry.Ranges.Length])];
                    Assert.True(registry.UnregisterAsync(going, TimeSpan.Zero).IsCompletedSuccessfully);
                }
                Assert.True(known.SetEquals(registry.Ranges.ToArray()));
            }
        }, iter: 2000);

    private static RegisteredRange Range(ulong address) => new(s_nobody, address, 100, null);
}
