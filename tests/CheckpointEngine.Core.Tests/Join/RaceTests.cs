using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

/// <summary>Joins that race with the replacing of what they read, over TCP and within a host.</summary>
public sealed class RaceTests
{
    private const int Joins = 100;

    [Theory]
    [InlineData(TransportChoice.Tcp, true, HoldMode.Memfd)]
    [InlineData(TransportChoice.Tcp, false, HoldMode.Anonymous)]         // no digest helps: the leases alone
    [InlineData(TransportChoice.Local, true, HoldMode.Memfd)]
    [InlineData(TransportChoice.Local, false, HoldMode.Memfd)]
    [InlineData(TransportChoice.Local, false, HoldMode.Anonymous)]       // read out of the holder's memory
    public Task Join_WhileItIsReplaced_IsOfOneVersion(TransportChoice transport, bool verify, HoldMode hold)
        => ReplacementRace.RunAsync(Joins, new ParameterServerOptions { Hold = hold, DrainTimeout = TimeSpan.FromMilliseconds(2) },      // some are waited for, some revoked
            () => new ParameterServerOptions(), transport, verify);
}
