using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Rdma.Tests.Support;
using CheckpointEngine.Tests;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>Joins over RDMA that race with the replacing of what they read: the holder's processor knows nothing of their reads.</summary>
public sealed class RaceTests
{
    private const int Joins = 15;

    [LabTheory]
    [InlineData(true)]
    [InlineData(false)]     // no digest helps: the leases alone
    public Task Join_WhileItIsReplaced_IsOfOneVersion(bool verify)
        => ReplacementRace.RunAsync(Joins,
            new ParameterServerOptions { Address = IPAddress.Parse(RdmaLab.Address(0)), RdmaDevices = RdmaLab.Names([0]), Transport = TransportChoice.Rdma, Hold = HoldMode.Anonymous, DrainTimeout = TimeSpan.FromMilliseconds(500) },
            () => new ParameterServerOptions { Address = IPAddress.Parse(RdmaLab.Address(1)), RdmaDevices = RdmaLab.Names([1]), Transport = TransportChoice.Rdma }, TransportChoice.Rdma, verify);
}
