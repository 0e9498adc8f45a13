using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Rdma.Tests.Support;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>The engine in this process, at both ends: through C#, what it leaves behind, what it allocates.</summary>
public sealed class EngineTests
{
    private const int Bytes = Ends.Bytes;

    [LabFact]
    public async Task JoinAsync_IntoTheCallersTensors_IsBitForBitAndLeavesNothing()
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(Bytes);
        new Random(3).NextBytes(source.GetSpan(0, Bytes));
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes + 4096);
        long regions = RdmaMemoryRegion.Live;
        long endpoints = RdmaQueuePairs.Live;
        await using (var holder = Ends.Server(0))
        {
            await holder.StartAsync(TestContext.Current.CancellationToken);
            holder.RegisterTensors("m", Ends.Tensors(source.Address));
            long served = RdmaMemoryRegion.Live;
            await using var joiner = Ends.Server(1);
            for (int round = 0; round < 20; round++)
            {
                destination.GetSpan(0, Bytes).Clear();
                JoinReport report = await joiner.JoinAsync(holder.GetMetas("m").Metas, new JoinOptions
                {
                    Destination = JoinDestinationKind.Tensors,
                    Tensors = Ends.Tensors(destination.Address + 8 * (round % 3)),       // odd places, too
                    Transport = TransportChoice.Rdma,
                    RequireVerify = true,
                }, cancellationToken: TestContext.Current.CancellationToken);
                Assert.Equal(["rdma"], report.Transports.Keys);
                Assert.True(source.GetReadOnlySpan(0, Bytes).SequenceEqual(destination.GetReadOnlySpan(8 * (round % 3), Bytes)), $"round {round}");
            }
            Assert.Equal(endpoints, RdmaQueuePairs.Live);       // both ends: the holder was told of each end
            Assert.Equal(served, RdmaMemoryRegion.Live);
        }
        Assert.Equal(regions, RdmaMemoryRegion.Live);
    }

    [LabFact]
    public async Task Lane_AThousandConnects_LeaveNothing()
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(Bytes);
        await using ParameterServer holder = Ends.Server(0);
        await holder.StartAsync(TestContext.Current.CancellationToken);
        holder.RegisterTensors("m", Ends.Tensors(source.Address));
        await using RdmaPlane plane = Ends.Plane(1);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        RdmaOwner owner = await Ends.OwnerAsync(plane, memory, holder);
        long endpoints = RdmaQueuePairs.Live;
        int descriptors = 0;
        for (int i = 0; i < 1000; i++)
        {
            using RdmaReadLane lane = owner.TryMakeLane()!;
            lane.Connect();
            if (i == 9)
            {
                descriptors = Descriptors();
            }
        }
        Assert.Equal(endpoints, RdmaQueuePairs.Live);
        Assert.InRange(Descriptors(), 0, descriptors + 8);      // sockets that are closing
    }

    [LabFact]
    public async Task Lane_Reads_AllocateNothing()
    {
        const int Reads = 2000;
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(Bytes);
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes);
        await using ParameterServer holder = Ends.Server(0);
        await holder.StartAsync(TestContext.Current.CancellationToken);
        holder.RegisterTensors("m", Ends.Tensors(source.Address));
        await using RdmaPlane plane = Ends.Plane(0);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        memory.Add(destination.Address, Bytes);
        RdmaOwner owner = await Ends.OwnerAsync(plane, memory, holder);
        using RdmaReadLane lane = owner.TryMakeLane()!;
        lane.Connect();
        Assert.True(Ends.Pump(lane, source.Address, destination.Address, 200));

        long before = GC.GetAllocatedBytesForCurrentThread();
        bool done = Ends.Pump(lane, source.Address, destination.Address, Reads);
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;

        Assert.True(done);
        Assert.Equal(0, allocated);
    }

    [LabTheory]
    [InlineData(1, 1)]
    [InlineData(4095, 4097)]
    [InlineData(300_000, 77)]
    [InlineData((4 << 20) - 1, 13)]
    public async Task Lane_OddOffsetsAndLengths_GivesTheirBytes(int length, int offset)
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(Bytes);
        new Random(9).NextBytes(source.GetSpan(0, Bytes));
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes);
        await using ParameterServer holder = Ends.Server(2);
        await holder.StartAsync(TestContext.Current.CancellationToken);
        holder.RegisterTensors("m", Ends.Tensors(source.Address));
        await using RdmaPlane plane = Ends.Plane(2);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        memory.Add(destination.Address + 64, Bytes - 64);
        RdmaOwner owner = await Ends.OwnerAsync(plane, memory, holder);
        using RdmaReadLane lane = owner.TryMakeLane()!;
        lane.Connect();

        lane.Submit(new ReadRequest((ulong)(source.Address + offset), destination.Address + 100, length, 7));
        ReadCompletion completion = lane.Wait(null);

        Assert.Equal(new ReadCompletion(7, ReadStatus.Done), completion);
        Assert.True(source.GetReadOnlySpan(offset, length).SequenceEqual(destination.GetReadOnlySpan(100, length)));
        Assert.True(destination.GetReadOnlySpan(0, 100).IndexOfAnyExcept((byte)0) < 0);
        Assert.True(destination.GetReadOnlySpan(100 + length, 100).IndexOfAnyExcept((byte)0) < 0);
    }

    private static int Descriptors() => Directory.GetFileSystemEntries("/proc/self/fd").Length;
}
