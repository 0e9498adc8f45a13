using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Rdma.Tests.Support;

/// <summary>Holders and readers in this process, and what they say to each other.</summary>
internal static class Ends
{
    public const int Bytes = 8 << 20;

    public static bool Pump(RdmaReadLane lane, nint source, nint destination, int reads)
    {
        int submitted = 0;
        for (int done = 0; done < reads; done++)
        {
            while (submitted < reads && submitted - done < 16)
            {
                int at = submitted % 128 * 16384;
                lane.Submit(new ReadRequest((ulong)(source + at), destination + at, 4096, submitted));
                submitted++;
            }
            if (lane.Wait(null).Status != ReadStatus.Done)
            {
                return false;
            }
        }
        return true;
    }

    public static ParameterServer Server(int device) => new(new ParameterServerOptions
    {
        Address = IPAddress.Parse(RdmaLab.Address(device)),
        Transport = TransportChoice.Rdma,
        RdmaDevices = RdmaLab.Names([device]),
    });

    public static RdmaPlane Plane(params int[] devices)
        => RdmaPlane.TryOpen(RdmaLab.Names(devices), NullLogger.Instance, out string? whyNone) ?? throw new InvalidOperationException(whyNone);

    public static CallerTensors Tensors(nint address)
    {
        var tensors = new CallerTensors();
        tensors.Add("t", TensorDtype.U8, [Bytes], address);
        return tensors;
    }

    public static async Task<RdmaOwner> OwnerAsync(RdmaPlane plane, RdmaLocalMemory memory, ParameterServer holder)
    {
        EndpointName name = EndpointName.Parse(holder.P2pStoreAddress);
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(name, "{\"protocol\":\"rdma\"}"u8.ToArray());
        return RdmaOwner.Make(plane, memory, name, isOurs: true, descriptor, TimeSpan.FromSeconds(30), NullLogger.Instance);
    }

    /// <summary>What a holder tells who speaks RDMA.</summary>
    public static ValueTask<SegmentDescriptor> DescribeAsync(ParameterServer holder)
        => HandshakeClient.FetchDescriptorAsync(EndpointName.Parse(holder.P2pStoreAddress), "{\"protocol\":\"rdma\"}"u8.ToArray());

    /// <summary>Until that is so.</summary>
    public static async Task UntilAsync(Func<ValueTask<bool>> condition)
    {
        using var patience = new CancellationTokenSource(ChildProcess.Patience);
        while (!await condition())
        {
            await Task.Delay(20, patience.Token);
        }
    }
}
