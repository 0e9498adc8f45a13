using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Tests;

/// <summary>When memory is registered with which devices, and that nothing is left of what failed; the devices are not here.</summary>
public sealed class RdmaServedMemoryTests
{
    private static readonly TimeSpan s_long = TimeSpan.FromSeconds(30);

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public void Add_AllDevices_WorkAtTheSameTime()
    {
        using var together = new Barrier(4);
        var devices = new FakeRegistrar(4) { OnRegister = (_, _) => Assert.True(together.SignalAndWait(s_long, Token), "the others wait for this one") };
        using var memory = new RdmaServedMemory(devices, NullLogger.Instance);
        using MemoryBuffer buffer = Borrow(1 << 20);

        memory.Add(RangeOf(buffer));

        Assert.Equal(4, devices.Live);
        RdmaOffer offer = memory.Describe();
        Assert.Equal([0, 1, 2, 3], offer.Devices);
        Assert.Equal([100u, 101u, 102u, 103u], Assert.Single(offer.Buffers).RemoteKeys);
    }

    [Fact]
    public void Add_LargerThanARegion_IsRegisteredInPiecesThatAdjoin()
    {
        var devices = new FakeRegistrar(2) { LargestBytes = 1000 };
        using var memory = new RdmaServedMemory(devices, NullLogger.Instance);
        using MemoryBuffer buffer = Borrow(2500);

        memory.Add(RangeOf(buffer));

        ulong start = (ulong)buffer.Address;
        Assert.Equal([(start, 1000ul), (start + 1000, 1000ul), (start + 2000, 500ul)], memory.Describe().Buffers.Select(piece => (piece.Address, piece.LengthBytes)));
        memory.Remove(RangeOf(buffer));       // another range: nothing happens
        Assert.Equal(6, devices.Live);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Add_OneDeviceRefuses_NothingStaysRegistered(bool begun)
    {
        var devices = new FakeRegistrar(3) { LargestBytes = 1000 };
        using var memory = new RdmaServedMemory(devices, NullLogger.Instance);
        using MemoryBuffer buffer = Borrow(2500);
        ulong last = (ulong)buffer.Address + 2000;
        devices.OnRegister = (device, address) =>
        {
            if (device == 1 && address == last)
            {
                throw new CheckpointEngineException(CheckpointError.OutOfMemory, "no more");
            }
        };
        if (begun)
        {
            memory.Begin(buffer);
        }

        var refusal = Assert.Throws<CheckpointEngineException>(() => memory.Add(RangeOf(buffer)));

        Assert.Equal("no more", refusal.Message);
        Assert.Equal(0, devices.Live);
        Assert.Empty(memory.Describe().Buffers);
        devices.OnRegister = static (_, _) => { };
        memory.Add(RangeOf(buffer));           // and it may be tried again
        Assert.Equal(9, devices.Live);
    }

    [Fact]
    public void Begin_ReturnsAtOnceAndTellsNobody_UntilItIsOffered()
    {
        using var mayRegister = new ManualResetEventSlim();
        var devices = new FakeRegistrar(2) { OnRegister = (_, _) => Assert.True(mayRegister.Wait(s_long, Token)) };
        using var memory = new RdmaServedMemory(devices, NullLogger.Instance);
        using MemoryBuffer buffer = Borrow(4096);

        memory.Begin(buffer);                  // returns though nothing can be registered yet

        Assert.Empty(memory.Describe().Buffers);
        mayRegister.Set();
        memory.Add(RangeOf(buffer));
        Assert.Equal(2, devices.Calls);        // what was begun, and nothing a second time
        Assert.Single(memory.Describe().Buffers);
    }

    [Fact]
    public async Task Abandon_WhileItIsRegistered_WaitsAndLeavesNothing()
    {
        using var entered = new ManualResetEventSlim();
        using var mayLeave = new ManualResetEventSlim();
        var devices = new FakeRegistrar(1)
        {
            OnRegister = (_, _) =>
            {
                entered.Set();
                Assert.True(mayLeave.Wait(s_long, Token));
            },
        };
        using var memory = new RdmaServedMemory(devices, NullLogger.Instance);
        using MemoryBuffer first = Borrow(4096);
        using MemoryBuffer second = Borrow(4096);
        memory.Begin(first);
        memory.Begin(second);
        Assert.True(entered.Wait(s_long, Token));
        Task abandoning = Task.Factory.StartNew(() =>
        {
            memory.Abandon(second);            // it waits for the first one, and is not begun any more
            Assert.Equal(0, Volatile.Read(ref devices.Calls) - 1);
        }, Token, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        Task other = Task.Factory.StartNew(() => memory.Abandon(first), Token, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        mayLeave.Set();
        await Task.WhenAll(abandoning, other).WaitAsync(s_long, Token);
        Assert.Equal(0, devices.Live);
        memory.Abandon(first);                 // again, and of what was never begun: nothing
    }

    [Fact]
    public void Dispose_WithWhatWasBegunAndWhatIsOffered_LeavesNothing()
    {
        var devices = new FakeRegistrar(2);
        var memory = new RdmaServedMemory(devices, NullLogger.Instance);
        using MemoryBuffer offered = Borrow(4096);
        using MemoryBuffer begun = Borrow(4096);
        memory.Add(RangeOf(offered));
        memory.Begin(begun);
        memory.Dispose();
        Assert.Equal(0, devices.Live);
        Assert.Throws<ObjectDisposedException>(() => memory.Add(RangeOf(begun)));
        Assert.Equal(0, devices.Live);
    }

    [Fact]
    public async Task DevicesChanged_DeviceCameUp_IsToldOnceAllIsRegisteredWithIt()
    {
        var devices = new FakeRegistrar(3);
        devices.Usable[1] = false;
        using var memory = new RdmaServedMemory(devices, NullLogger.Instance);
        using MemoryBuffer first = Borrow(4096);
        using MemoryBuffer second = Borrow(4096);
        RegisteredRange taken = RangeOf(first);
        memory.Add(taken);
        memory.Add(RangeOf(second));
        Assert.Equal([0, 2], memory.Describe().Devices);
        Assert.All(memory.Describe().Buffers, buffer => Assert.Equal([100u, 102u], buffer.RemoteKeys));

        using var entered = new SemaphoreSlim(0);
        using var mayLeave = new SemaphoreSlim(0);
        devices.OnRegister = (device, _) =>
        {
            Assert.Equal(1, device);
            entered.Release();
            Assert.True(mayLeave.Wait(s_long, Token));
        };
        Volatile.Write(ref devices.Usable[1], true);
        memory.DevicesChanged();                                         // returns at once
        Assert.True(await entered.WaitAsync(s_long, Token));
        Assert.Equal([0, 2], memory.Describe().Devices);                 // of one of two ranges
        mayLeave.Release();
        Assert.True(await entered.WaitAsync(s_long, Token));
        Assert.Equal([0, 2], memory.Describe().Devices);
        mayLeave.Release();
        while (memory.Describe().Devices.Length != 3)
        {
            Token.ThrowIfCancellationRequested();
            await Task.Yield();
        }
        Assert.All(memory.Describe().Buffers, buffer => Assert.Equal([100u, 101u, 102u], buffer.RemoteKeys));
        Assert.Equal(6, devices.Live);
        memory.Remove(taken);
        Assert.Equal(3, devices.Live);
    }

    [Fact]
    public async Task DevicesChanged_ItRefuses_IsTriedAgainAtTheNextChange()
    {
        var devices = new FakeRegistrar(2);
        devices.Usable[1] = false;
        using var memory = new RdmaServedMemory(devices, NullLogger.Instance);
        using MemoryBuffer buffer = Borrow(4096);
        memory.Add(RangeOf(buffer));
        var refused = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        devices.OnRegister = (_, _) =>
        {
            refused.TrySetResult();
            throw new CheckpointEngineException(CheckpointError.OutOfMemory, "no more");
        };
        devices.Usable[1] = true;
        memory.DevicesChanged();
        await refused.Task.WaitAsync(s_long, Token);
        Assert.Equal([0], memory.Describe().Devices);
        devices.OnRegister = static (_, _) => { };
        while (memory.Describe().Devices.Length != 2)
        {
            Token.ThrowIfCancellationRequested();
            memory.DevicesChanged();
            await Task.Yield();
        }
        Assert.Equal(2, devices.Live);
    }

    [Fact]
    public void Describe_MemoryOnTwoNodes_NamesTheNearDevicesOfEachFirst()
    {
        using MemoryBuffer here = Borrow(4096);
        using MemoryBuffer there = Borrow(4096);
        ulong second = (ulong)there.Address;
        var devices = new FakeRegistrar(4) { Nodes = [0, 0, 1, 1], NodeOfAddress = address => address == second ? 1 : 0 };
        using var memory = new RdmaServedMemory(devices, NullLogger.Instance);
        memory.Add(RangeOf(here));
        memory.Add(RangeOf(there));

        RdmaOffer offer = memory.Describe();

        Assert.Equal(["cpu:0 d0 d1 | d2 d3", "cpu:1 d2 d3 | d0 d1"],
            offer.Matrix.Select(entry => $"{entry.Location} {string.Join(' ', entry.Preferred)} | {string.Join(' ', entry.Others)}"));
        Assert.Equal([2, 3, 0, 1], offer.Devices);        // as they are met in the entry that sorts last
        Assert.Equal([0, 1, 2, 3], offer.Rails);
        Assert.All(offer.Buffers, buffer => Assert.Equal([102u, 103u, 100u, 101u], buffer.RemoteKeys));
        Assert.Equal("cpu:1", Assert.Single(offer.Buffers, buffer => buffer.Address == second).Name);
    }

    private static MemoryBuffer Borrow(long bytes) => MemoryBuffer.Borrow((nint)(Interlocked.Increment(ref s_places) << 32), bytes);

    private static long s_places;

    private static RegisteredRange RangeOf(MemoryBuffer buffer) => new(buffer, (ulong)buffer.Address, (ulong)buffer.LengthBytes, null);
}
