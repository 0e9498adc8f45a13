using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.Cli.Tests.Chaos;

/// <summary>Where rounds take place, one after another: hosts, a directory, and the versions in it.</summary>
internal sealed class ChaosStage : IDisposable
{
    private const int Megabits = 400;

    private ChaosStage(NetworkOfHosts network)
    {
        Network = network;
        Versions = new ChaosVersions(Temp);
    }

    /// <summary>Holders' hosts first, with links that are slow; then joiners'.</summary>
    public NetworkOfHosts Network { get; }

    public TempDirectory Temp { get; } = new();

    public ChaosVersions Versions { get; }

    /// <summary>Makes one, or says why it cannot be.</summary>
    public static ChaosStage? TryCreate(out string? whyNot)
        => NetworkOfHosts.TryCreate(ChaosPlan.MostHolders + ChaosPlan.Joiners, Megabits, out whyNot, ChaosPlan.MostHolders) is NetworkOfHosts network ? new ChaosStage(network) : null;

    public void Dispose()
    {
        Network.Dispose();
        Temp.Dispose();
    }
}
