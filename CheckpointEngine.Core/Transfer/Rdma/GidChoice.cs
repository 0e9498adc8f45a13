using System.Globalization;
using System.Net;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Under which GID of a port connections are made, and why: <c>MC_GID_INDEX</c>, else <c>NCCL_IB_GID_INDEX</c>, else the best one.</summary>
/// <remarks>The ranking is that of Mooncake's engine, so that two ends of one fabric come to the same kind of address. Source: docs/mooncake-wire.md, 5.4.</remarks>
internal sealed class GidChoice
{
    internal const string MooncakeVariable = "MC_GID_INDEX";
    internal const string NcclVariable = "NCCL_IB_GID_INDEX";

    /// <summary>The best and two others, which are tried when the device refuses it.</summary>
    internal const int MaxCandidates = 3;

    // The GID table's place is a byte in ibv_global_route.
    private const int MaxIndex = byte.MaxValue;

    private static readonly string[] s_overlays = ["flannel", "cni", "calico", "vxlan", "docker"];

    private GidChoice(GidTableEntry[] candidates, bool isAutomatic, string reason, string? warning)
    {
        Candidates = candidates;
        IsAutomatic = isAutomatic;
        Reason = reason;
        Warning = warning;
    }

    /// <summary>The one to take, then those to try instead; none when the port has no GID to take.</summary>
    internal GidTableEntry[] Candidates { get; }

    /// <summary>Whether the user named none, so that others may be tried.</summary>
    internal bool IsAutomatic { get; }

    /// <summary>Why the first, or why none.</summary>
    internal string Reason { get; }

    /// <summary>What is wrong with a variable, or with what it names; null when nothing is.</summary>
    internal string? Warning { get; }

    /// <summary>As the other, with the variables of this process.</summary>
    internal static GidChoice FromEnvironment(ReadOnlySpan<GidTableEntry> table)
        => Choose(table, Environment.GetEnvironmentVariable(MooncakeVariable), Environment.GetEnvironmentVariable(NcclVariable));

    /// <summary>Chooses among the GIDs of a port.</summary>
    /// <param name="table">The places that are taken, in any order.</param>
    /// <param name="mooncakeIndex">The value of <c>MC_GID_INDEX</c>; null when not set.</param>
    /// <param name="ncclIndex">The value of <c>NCCL_IB_GID_INDEX</c>; null when not set, and -1 is NCCL's own way to say so.</param>
    internal static GidChoice Choose(ReadOnlySpan<GidTableEntry> table, string? mooncakeIndex, string? ncclIndex)
    {
        string? warning = null;
        if (TryParseIndex(MooncakeVariable, mooncakeIndex, ref warning, out int index))
        {
            return Named(table, MooncakeVariable, index, warning);
        }
        return TryParseIndex(NcclVariable, ncclIndex, ref warning, out index)
            ? Named(table, NcclVariable, index, warning)
            : Automatic(table, warning);
    }

    /// <summary>How good a GID is; less is better.</summary>
    internal static GidRank Rank(GidTableEntry entry)
    {
        if (entry.IsNull)
        {
            return GidRank.Unusable;
        }
        if (entry.Type is not (GidTableType.RoceV2 or GidTableType.InfiniBand))
        {
            return GidRank.LastResort;
        }
        bool hasDevice = entry.NetworkDevice is not null;
        // An overlay's private address is an overlay's first of all: nothing of the fabric reaches it.
        if (entry.IsLinkLocal || IsOverlay(entry.NetworkDevice))
        {
            return hasDevice ? GidRank.DegradedWithDevice : GidRank.Degraded;
        }
        if (IsPrivate(entry))
        {
            return hasDevice ? GidRank.PrivateWithDevice : GidRank.Private;
        }
        return hasDevice ? GidRank.RoutableWithDevice : GidRank.Routable;
    }

    internal static string Describe(GidRank rank) => rank switch
    {
        GidRank.RoutableWithDevice => "routable, on a network interface",
        GidRank.Routable => "routable, on no network interface",
        GidRank.PrivateWithDevice => "a private IPv4 address, on a network interface",
        GidRank.DegradedWithDevice => "link-local or of an overlay network, on a network interface",
        GidRank.Private => "a private IPv4 address, on no network interface",
        GidRank.Degraded => "link-local, on no network interface",
        GidRank.LastResort => "the first that is there: none is of RoCE v2 or InfiniBand",
        _ => "empty",
    };

    private static GidChoice Named(ReadOnlySpan<GidTableEntry> table, string variable, int index, string? warning)
    {
        foreach (GidTableEntry entry in table)
        {
            if (entry.Index == index && !entry.IsNull)
            {
                string named = string.Create(CultureInfo.InvariantCulture, $"{variable}={index}");
                string? poor = entry.Type == GidTableType.RoceV1 ? $"{named} is a RoCE v1 GID, which no router passes on" : null;
                return new GidChoice([entry], isAutomatic: false, named, warning ?? poor);
            }
        }
        string reason = string.Create(CultureInfo.InvariantCulture,
            $"{variable}={index} names an empty place of the GID table; unset it, or name one of: {List(table)}");
        return new GidChoice([], isAutomatic: false, reason, warning ?? reason);
    }

    private static GidChoice Automatic(ReadOnlySpan<GidTableEntry> table, string? warning)
    {
        var candidates = new GidTableEntry[MaxCandidates];
        int count = 0;
        while (count < MaxCandidates && FindBest(table, candidates.AsSpan(0, count)) is { } best
            && (count == 0 || Rank(best) < GidRank.LastResort))
        {
            candidates[count++] = best;
        }
        string reason = count == 0
            ? "the GID table is empty: bring the network interface of this port up and give it an address"
            : Describe(Rank(candidates[0]));
        return new GidChoice(candidates[..count], isAutomatic: true, reason, warning);
    }

    private static GidTableEntry? FindBest(ReadOnlySpan<GidTableEntry> table, ReadOnlySpan<GidTableEntry> taken)
    {
        GidTableEntry? best = null;
        foreach (GidTableEntry entry in table)
        {
            GidRank rank = Rank(entry);
            if (rank != GidRank.Unusable && entry.Index <= MaxIndex && !Contains(taken, entry)
                && (best is null || rank < Rank(best) || (rank == Rank(best) && entry.Index < best.Index)))
            {
                best = entry;
            }
        }
        return best;
    }

    private static bool Contains(ReadOnlySpan<GidTableEntry> entries, GidTableEntry entry)
    {
        foreach (GidTableEntry other in entries)
        {
            if (ReferenceEquals(other, entry))
            {
                return true;
            }
        }
        return false;
    }

    private static bool IsOverlay(string? networkDevice)
    {
        if (networkDevice is null or "tunl0")
        {
            return networkDevice is not null;
        }
        foreach (string overlay in s_overlays)
        {
            if (networkDevice.StartsWith(overlay, StringComparison.Ordinal))
            {
                return true;
            }
        }
        return false;
    }

    // 192.168/16 is not among them in Mooncake's engine, where it counts as routable.
    private static bool IsPrivate(GidTableEntry entry)
        => entry.IsIPv4 && (entry.Gid[12] == 10
            || (entry.Gid[12] == 172 && (entry.Gid[13] & 0xf0) == 16)
            || (entry.Gid[12] == 100 && (entry.Gid[13] & 0xc0) == 64));

    private static bool TryParseIndex(string variable, string? text, ref string? warning, out int index)
    {
        index = -1;
        if (string.IsNullOrWhiteSpace(text))
        {
            return false;
        }
        if (!int.TryParse(text.AsSpan().Trim(), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out index) || index > MaxIndex)
        {
            warning ??= $"{variable}={text} is not a place in a GID table, 0 to {MaxIndex}; passed over";
            return false;
        }
        return index >= 0;
    }

    private static string List(ReadOnlySpan<GidTableEntry> table)
    {
        var text = new System.Text.StringBuilder();
        foreach (GidTableEntry entry in table)
        {
            if (!entry.IsNull)
            {
                text.Append(text.Length == 0 ? "" : ", ").Append(CultureInfo.InvariantCulture, $"{entry.Index} ({entry.AddressText}, {entry.TypeText})");
            }
        }
        return text.Length == 0 ? "(there is none)" : text.ToString();
    }
}

/// <summary>How good a GID is for connections, the best first.</summary>
internal enum GidRank
{
    RoutableWithDevice,
    Routable,
    PrivateWithDevice,
    DegradedWithDevice,
    Private,
    Degraded,
    LastResort,
    Unusable,
}
