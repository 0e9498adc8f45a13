using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Rdma.Tests.Support;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>Ports that come up after the start or again, and GIDs that become others, at both ends.</summary>
public sealed class PortTests
{
    private const int Bytes = Ends.Bytes;

    [LabFact]
    public async Task Holder_PortComesUpAfterTheStart_IsToldAndReadFrom()
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(Bytes);
        new Random(4).NextBytes(source.GetSpan(0, Bytes));
        using var network = new NetworkInterface(3);
        network.Down();
        await using ParameterServer holder = Server(0, [2, 3]);
        await holder.StartAsync(TestContext.Current.CancellationToken);
        holder.RegisterTensors("m", Ends.Tensors(source.Address));
        SegmentDescriptor before = await Ends.DescribeAsync(holder);
        Assert.Equal([RdmaLab.Found[2]], before.Devices.Select(device => device.Name));
        Assert.All(before.Buffers, buffer => Assert.Single(buffer.RemoteKeys));

        network.Up();

        await Ends.UntilAsync(async () => (await Ends.DescribeAsync(holder)).Devices.Length == 2);
        Assert.All((await Ends.DescribeAsync(holder)).Buffers, buffer => Assert.Equal(2, buffer.RemoteKeys.Length));
        Assert.Equal([$"{RdmaLab.Found[0]}-{RdmaLab.Found[2]}", $"{RdmaLab.Found[1]}-{RdmaLab.Found[3]}"], await ReadOverAllAsync(holder, [0, 1], source));
    }

    [LabFact]
    public async Task Holder_EveryPortWasDownAtTheStart_OffersRdmaOnceOneIsUp()
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(Bytes);
        using var network = new NetworkInterface(3);
        network.Down();
        await using ParameterServer holder = Server(0, [3], TransportChoice.Auto);
        await holder.StartAsync(TestContext.Current.CancellationToken);
        holder.RegisterTensors("m", Ends.Tensors(source.Address));
        SegmentDescriptor before = await Ends.DescribeAsync(holder);
        Assert.Equal(SegmentDescriptor.TcpProtocol, before.Protocol);
        Assert.DoesNotContain("rdma", before.Engine!.Transports);

        network.Up();

        await Ends.UntilAsync(async () => (await Ends.DescribeAsync(holder)) is { Protocol: SegmentDescriptor.RdmaProtocol, Devices.Length: 1 });
        Assert.Equal([$"{RdmaLab.Found[0]}-{RdmaLab.Found[3]}"], await ReadOverAllAsync(holder, [0], source));
    }

    [LabFact]
    public async Task Reader_PortGoesDownAndComesUp_IsUsedAgainByTheSameReader()
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(Bytes);
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes);
        await using ParameterServer holder = Server(0, [0]);
        await holder.StartAsync(TestContext.Current.CancellationToken);
        holder.RegisterTensors("m", Ends.Tensors(source.Address));
        await using RdmaPlane plane = Ends.Plane(3);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        memory.Add(destination.Address, Bytes);
        RdmaOwner owner = await Ends.OwnerAsync(plane, memory, holder);
        using var network = new NetworkInterface(3);
        using (RdmaReadLane lane = owner.TryMakeLane()!)
        {
            lane.Connect();
            Assert.True(Ends.Pump(lane, source.Address, destination.Address, 32));
            network.Down();
            Assert.False(Ends.Pump(lane, source.Address, destination.Address, 1 << 20));
        }
        Assert.Null(owner.TryMakeLane());
        Assert.NotNull(owner.Failure);

        network.Up();

        RdmaReadLane? again = null;
        await Ends.UntilAsync(() => new ValueTask<bool>((again = owner.TryMakeLane()) is not null));
        Assert.Null(owner.Failure);
        using (again)
        {
            again!.Connect();
            Assert.True(Ends.Pump(again, source.Address, destination.Address, 32));
        }
    }

    [LabFact]
    public async Task Holder_GidChanges_OldPairsEndAndNewOnesGoUnderTheNewOne()
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(Bytes);
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes);
        await using ParameterServer holder = Server(0, [2]);
        await holder.StartAsync(TestContext.Current.CancellationToken);
        holder.RegisterTensors("m", Ends.Tensors(source.Address));
        await using RdmaPlane plane = Ends.Plane(1);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        memory.Add(destination.Address, Bytes);
        RdmaOwner owner = await Ends.OwnerAsync(plane, memory, holder);
        long endpoints = RdmaQueuePairs.Live;
        using var network = new NetworkInterface(2);
        using (RdmaReadLane lane = owner.TryMakeLane()!)
        {
            lane.Connect();
            Assert.True(Ends.Pump(lane, source.Address, destination.Address, 32));
            Assert.Equal(endpoints + 2, RdmaQueuePairs.Live);

            network.Readdress("198.18.0.103");

            await Ends.UntilAsync(() => new ValueTask<bool>(RdmaQueuePairs.Live == endpoints + 1));       // the holder's is gone
            Assert.False(Ends.Pump(lane, source.Address, destination.Address, 1));
        }
        await Ends.UntilAsync(async () => (await Ends.DescribeAsync(holder)).Devices is [{ Gid: var gid }] && gid.EndsWith("ff:ff:c6:12:00:67", StringComparison.Ordinal));
        // The same reader, which has the old GID from the descriptor: the pair carried bytes, so it is connected once more, and told the new one.
        using RdmaReadLane again = owner.TryMakeLane()!;
        again.Connect();
        Assert.True(Ends.Pump(again, source.Address, destination.Address, 32));
    }

    [LabFact]
    public async Task Reader_GidChanges_LaneEndsAtOnceAndTheNextGoesUnderTheNewOne()
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(Bytes);
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes);
        await using ParameterServer holder = Server(0, [1]);
        await holder.StartAsync(TestContext.Current.CancellationToken);
        holder.RegisterTensors("m", Ends.Tensors(source.Address));
        await using RdmaPlane plane = Ends.Plane(2);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        memory.Add(destination.Address, Bytes);
        RdmaOwner owner = await Ends.OwnerAsync(plane, memory, holder);
        using var network = new NetworkInterface(2);
        string before = plane.Nics[0].Gid.WireText;
        using (RdmaReadLane lane = owner.TryMakeLane()!)
        {
            lane.Connect();
            Assert.True(Ends.Pump(lane, source.Address, destination.Address, 32));

            network.Readdress("198.18.0.103");

            Assert.False(Ends.Pump(lane, source.Address, destination.Address, 1 << 20));
        }
        await Ends.UntilAsync(() => new ValueTask<bool>(plane.Nics[0].Gid.WireText.EndsWith("c6:12:00:67", StringComparison.Ordinal)));
        Assert.NotEqual(before, plane.Nics[0].Gid.WireText);
        using RdmaReadLane again = owner.TryMakeLane()!;
        again.Connect();
        Assert.True(Ends.Pump(again, source.Address, destination.Address, 32));
    }

    private static ParameterServer Server(int address, int[] devices, TransportChoice transport = TransportChoice.Rdma) => new(new ParameterServerOptions
    {
        Address = IPAddress.Parse(RdmaLab.Address(address)),
        Transport = transport,
        RdmaDevices = RdmaLab.Names(devices),
    });

    // A lane for each device there; which pairs of devices they are of.
    private static async Task<string[]> ReadOverAllAsync(ParameterServer holder, int[] devices, MemoryBuffer source)
    {
        using MemoryBuffer destination = MemoryBuffer.AllocateAnonymous(Bytes);
        await using RdmaPlane plane = Ends.Plane(devices);
        using var memory = new RdmaLocalMemory(plane, NullLogger.Instance);
        memory.Add(destination.Address, Bytes);
        RdmaOwner owner = await Ends.OwnerAsync(plane, memory, holder);
        RdmaReadLane[] lanes = [.. devices.Select(_ => owner.TryMakeLane()!)];
        try
        {
            return [.. lanes.Select(lane =>
            {
                destination.GetSpan(0, Bytes).Clear();
                lane.Connect();
                Assert.True(Ends.Pump(lane, source.Address, destination.Address, 32));
                Assert.True(source.GetReadOnlySpan(0, 4096).SequenceEqual(destination.GetReadOnlySpan(0, 4096)));
                return lane.PairName;
            })];
        }
        finally
        {
            Array.ForEach(lanes, lane => lane.Dispose());
        }
    }
}
