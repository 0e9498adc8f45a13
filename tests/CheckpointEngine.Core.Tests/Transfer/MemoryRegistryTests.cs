using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CsCheck;

namespace CheckpointEngine.Tests;

public sealed class MemoryRegistryTests
{
    private static readonly MemoryBuffer s_nobody = MemoryBuffer.Borrow(4096, 4096);

    [Theory]
    [InlineData(0UL, 1UL)]
    [InlineData(1UL, 0UL)]
    [InlineData(ulong.MaxValue, 2UL)]
    [InlineData(2UL, ulong.MaxValue - 1)]
    public void Register_NothingOrAroundTheAddressSpace_IsRefused(ulong address, ulong length)
    {
        var registry = new MemoryRegistry();
        Assert.Throws<ArgumentOutOfRangeException>(() => registry.Register(s_nobody, address, length));
        Assert.Equal(0, registry.Ranges.Length);
    }

    [Fact]
    public void Register_ToTheEndOfTheAddressSpace_IsReadableToItsLastByte()
    {
        var registry = new MemoryRegistry();
        registry.Register(s_nobody, ulong.MaxValue - 100, 100);
        Assert.True(registry.TryFind(ulong.MaxValue - 1, 1, out _));
        Assert.False(registry.TryFind(ulong.MaxValue, 1, out _));
        Assert.False(registry.TryFind(ulong.MaxValue - 1, 2, out _));
        Assert.False(registry.TryFind(ulong.MaxValue - 100, ulong.MaxValue, out _));
    }

    [Fact]
    public async Task Unregister_WhileReadsAreUnderWay_WaitsForTheLast()
    {
        var registry = new MemoryRegistry();
        RegisteredRange range = registry.Register(s_nobody, 1000, 100);
        Assert.True(registry.TryBeginRead(1000, 100, out _));
        Assert.True(registry.TryBeginRead(1050, 1, out _));
        Assert.False(await registry.UnregisterAsync(range, TimeSpan.Zero));
        Assert.False(registry.TryBeginRead(1000, 1, out _));
        Assert.False(range.TryBeginRead());                 // as who found it just before
        range.EndRead();
        Assert.False(range.Drained.IsCompleted);
        range.EndRead();
        Assert.True(range.Drained.IsCompleted);
        Assert.True(await registry.UnregisterAsync(range, TimeSpan.Zero));
    }

    [Fact]
    public void Operations_InAnyOrder_AgreeWithANaiveModel()
    {
        Gen<(int Kind, int Address, int Length)> operation = Gen.Select(Gen.Int[0, 3], Gen.Int[1, 60], Gen.Int[0, 20]);
        operation.Array[0, 60].Sample(operations =>
        {
            var registry = new MemoryRegistry();
            var model = new List<(RegisteredRange Range, int Address, int Length)>();
            foreach ((int kind, int address, int length) in operations)
            {
                switch (kind)
                {
                    case 0 or 1 when length != 0:
                        bool free = model.TrueForAll(range => address + length <= range.Address || range.Address + range.Length <= address);
                        try
                        {
                            model.Add((registry.Register(s_nobody, (ulong)address, (ulong)length), address, length));
                            Assert.True(free);
                        }
                        catch (CheckpointEngineException taken)
                        {
                            Assert.Equal(CheckpointError.AlreadyExists, taken.Error);
                            Assert.False(free);
                        }
                        break;
                    case 2 when model.Count != 0:
                        int victim = address % model.Count;
                        Assert.True(registry.UnregisterAsync(model[victim].Range, TimeSpan.Zero).IsCompletedSuccessfully);
                        model.RemoveAt(victim);
                        break;
                    default:
                        RegisteredRange? expected = length == 0 ? null
                            : model.Find(range => address >= range.Address && address + length <= range.Address + range.Length).Range;
                        Assert.Equal(expected is not null, registry.TryBeginRead((ulong)address, (ulong)length, out RegisteredRange? found));
                        Assert.Same(expected, found);
                        found?.EndRead();
                        break;
                }
                Assert.Equal(model.OrderBy(range => range.Address).Select(range => range.Range), registry.Ranges.ToArray());
            }
        }, iter: 2000);
    }

    [Fact]
    public void Contains_AnyTwoRanges_AgreesWithWideArithmetic()
        => Gen.Select(Gen.ULong, Gen.ULong, Gen.ULong, Gen.ULong).Sample((start, length, address, count) =>
        {
            start = Math.Clamp(start, 1, ulong.MaxValue - 1);
            length = Math.Clamp(length, 1, ulong.MaxValue - start);
            var range = new RegisteredRange(s_nobody, start, length, null);
            UInt128 end = (UInt128)start + length;
            Assert.Equal(address >= start && (UInt128)address + count <= end, range.Contains(address, count));
        });

    [Fact]
    public async Task Close_AmidReadsOnManyThreads_DrainsOnceAndOnlyWhenNobodyReads()
    {
        for (int round = 0; round < 200; round++)
        {
            var registry = new MemoryRegistry();
            RegisteredRange range = registry.Register(s_nobody, 4096, 4096);
            int reading = 0;
            int drains = 0;
            int readingAtDrain = -1;
            _ = range.Drained.ContinueWith(_ =>
            {
                Interlocked.Increment(ref drains);
                readingAtDrain = Volatile.Read(ref reading);
            }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
            using var ready = new Barrier(4);
            Task[] readers = [.. Enumerable.Range(0, 3).Select(_ => Task.Factory.StartNew(() =>
            {
                ready.SignalAndWait();
                while (registry.TryBeginRead(5000, 10, out RegisteredRange? found))
                {
                    Interlocked.Increment(ref reading);
                    Interlocked.Decrement(ref reading);
                    found.EndRead();
                }
            }, TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default))];
            ready.SignalAndWait(TestContext.Current.CancellationToken);
            Assert.True(await registry.UnregisterAsync(range, TimeSpan.FromSeconds(20)));
            await Task.WhenAll(readers);
            Assert.False(range.TryBeginRead());
            await TcpDataListenerHostileTests.Until(() => Volatile.Read(ref drains) == 1);
            Assert.Equal(0, readingAtDrain);
        }
    }
}
