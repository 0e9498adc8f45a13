using System.Globalization;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.Cli.Tests.Chaos;

/// <summary>Who reads from whom in a round.</summary>
internal enum ChaosWorld
{
    /// <summary>One holder, and joiners that read from it and from each other.</summary>
    Swarm,

    /// <summary>Two holders that stand in for each other.</summary>
    Replicas,

    /// <summary>A holder, one that follows it and holds what it holds, and joiners that read from that one.</summary>
    Followed,
}

/// <summary>What befalls a process.</summary>
internal enum ChaosFaultKind
{
    /// <summary>SIGKILL.</summary>
    Kill,

    /// <summary>SIGSTOP, and SIGCONT after a while.</summary>
    Stop,

    /// <summary>Its host's plug is pulled for a while.</summary>
    Cut,

    /// <summary>Its host's line loses packets for a while, and where the kernel has netem delays, reorders, doubles and damages them.</summary>
    Worsen,

    /// <summary>The first holder holds another version from then on.</summary>
    Replace,
}

/// <summary>One fault.</summary>
/// <param name="AfterMs">After the one before has begun and, if it lasts, has ended.</param>
/// <param name="Kind">What.</param>
/// <param name="Victim">Whom: holders first, then joiners.</param>
/// <param name="LengthMs">How long it lasts, where that means something.</param>
/// <param name="Line">For <see cref="ChaosFaultKind.Worsen"/>.</param>
internal sealed record ChaosFault(int AfterMs, ChaosFaultKind Kind, int Victim, int LengthMs, LineQuality Line);

/// <summary>All that a round does: the same for the same seed, on every machine.</summary>
/// <param name="Seed">The seed.</param>
/// <param name="World">Who reads from whom.</param>
/// <param name="HasToken">Whether all demand one.</param>
/// <param name="Hold">How holders hold.</param>
/// <param name="SmallDisk">The joiner whose disk is too small; null for none.</param>
/// <param name="Limited">The joiner that may have little memory, and joins into memory; null for none.</param>
/// <param name="LimitMebibytes">How much.</param>
/// <param name="Faults">What happens, in order.</param>
/// <param name="Encrypts">Whether all send weights within TLS alone, and read from nobody else.</param>
internal sealed record ChaosPlan(int Seed, ChaosWorld World, bool HasToken, string Hold, int? SmallDisk, int? Limited, int LimitMebibytes, IReadOnlyList<ChaosFault> Faults, bool Encrypts)
{
    public const int Joiners = 3;
    public const int MostHolders = 2;

    private const int MostFaults = 3;

    public int Holders => World == ChaosWorld.Swarm ? 1 : MostHolders;

    /// <summary>The joiner in whose place somebody joins when all is over.</summary>
    public int Afterwards => SmallDisk ?? 0;

    public static ChaosPlan Of(int seed)
    {
        var random = new Random(seed);
        var world = (ChaosWorld)random.Next(3);
        bool hasToken = random.Next(3) == 0;
        string hold = ((string[])["map", "memfd", "anon"])[random.Next(3)];
        int? smallDisk = random.Next(5) == 0 ? random.Next(Joiners) : null;
        int? limited = random.Next(5) == 0 ? random.Next(Joiners) : null;
        int limit = random.Next(32, 96);
        bool replaces = random.Next(3) == 0;
        var faults = new List<ChaosFault>();
        int parties = Joiners + (world == ChaosWorld.Swarm ? 1 : MostHolders);
        for (int count = random.Next(1, MostFaults + 1); count > 0; count--)
        {
            var kind = (ChaosFaultKind)random.Next((int)ChaosFaultKind.Replace);
            faults.Add(new ChaosFault(random.Next(50, 800), kind, random.Next(parties), random.Next(200, 1500), LineOf(random)));
        }
        if (replaces)
        {
            faults.Insert(random.Next(faults.Count + 1), new ChaosFault(random.Next(50, 800), ChaosFaultKind.Replace, 0, 0, new LineQuality()));
        }
        bool encrypts = random.Next(3) == 0;        // what is drawn is drawn behind what was: all else of a seed stays
        return new ChaosPlan(seed, world, hasToken, hold, smallDisk, limited == smallDisk ? null : limited, limit, faults, encrypts);
    }

    public override string ToString()
        => string.Create(CultureInfo.InvariantCulture, $"seed {Seed}: {World.ToString().ToLowerInvariant()}, {(HasToken ? "token" : "no token")}{(Encrypts ? ", encrypted" : "")}, --hold {Hold}")
            + (SmallDisk is int disk ? $", joiner {disk} has a small disk" : "")
            + (Limited is int limited ? $", joiner {limited} has {LimitMebibytes} MiB" : "");

    private static LineQuality LineOf(Random random) => new(
        LossPercent: random.Next(1, 6), DelayMs: random.Next(1, 21), JitterMs: random.Next(0, 11),
        ReorderPercent: random.Next(0, 26), DuplicatePercent: random.Next(0, 3), CorruptPercent: random.Next(0, 2) * 0.1);
}
