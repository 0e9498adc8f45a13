using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Rdma.Tests.Support;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>What a holder registers with its devices, when, and what is left of it.</summary>
public sealed class RegistrationTests
{
    private const int Bytes = Ends.Bytes;

    [LabFact]
    public async Task Register_TokenIsSet_IsRegisteredAndToldToNoStranger()
    {
        using MemoryBuffer source = MemoryBuffer.AllocateAnonymous(Bytes);
        long before = RdmaMemoryRegion.Live;
        await using ParameterServer holder = Server(TransportChoice.Auto, AccessToken.FromText("a token that is long enough"));
        await holder.StartAsync(TestContext.Current.CancellationToken);
        holder.RegisterTensors("m", Ends.Tensors(source.Address));
        Assert.Equal(before + 2, RdmaMemoryRegion.Live);
        SegmentDescriptor told = await Ends.DescribeAsync(holder);
        Assert.Contains("rdma", told.Engine!.Transports);
        Assert.Empty(told.Buffers);
        Assert.Empty(told.Devices);
    }

    [LabFact]
    public async Task RegisterFiles_Copied_IsRegisteredOnceWithEveryDeviceAndFreed()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        long before = RdmaMemoryRegion.Live;
        await using (ParameterServer holder = Server(TransportChoice.Rdma))
        {
            await holder.StartAsync(TestContext.Current.CancellationToken);
            await holder.RegisterAsync("m", [temp["model"]], cancellationToken: TestContext.Current.CancellationToken);
            Assert.Equal(before + 2, RdmaMemoryRegion.Live);
            Assert.True(await holder.UnregisterAsync("m", TestContext.Current.CancellationToken));
            Assert.Equal(before, RdmaMemoryRegion.Live);
        }
    }

    [LabFact]
    public async Task RegisterFiles_TheCopyFails_LeavesNothing()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        long before = RdmaMemoryRegion.Live;
        await using ParameterServer holder = Server(TransportChoice.Rdma);
        await holder.StartAsync(TestContext.Current.CancellationToken);

        await Assert.ThrowsAsync<InvalidOperationException>(() => holder.RegisterAsync("m", [temp["model"]], new Failing(), TestContext.Current.CancellationToken));

        Assert.Equal(before, RdmaMemoryRegion.Live);
        await holder.RegisterAsync("m", [temp["model"]], cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal(before + 2, RdmaMemoryRegion.Live);
    }

    private static ParameterServer Server(TransportChoice transport, AccessToken? token = null) => new(new ParameterServerOptions
    {
        Address = IPAddress.Parse(RdmaLab.Address(0)),
        Transport = transport,
        RdmaDevices = RdmaLab.Names([0, 1]),
        Hold = HoldMode.Anonymous,
        Token = token,
    });

    // Ends the load when it tells how far it is: by then the buffers are there, and are being registered.
    private sealed class Failing : IProgress<LoadProgress>
    {
        public void Report(LoadProgress value) => throw new InvalidOperationException("not now");
    }
}
