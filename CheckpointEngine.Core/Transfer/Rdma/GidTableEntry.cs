using System.Globalization;
using System.Net;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>One place of a port's GID table that is taken.</summary>
internal sealed class GidTableEntry : IEquatable<GidTableEntry>
{
    internal const int GidLength = 16;

    /// <param name="index">Its place in the table, from 0.</param>
    /// <param name="gid">16 bytes.</param>
    /// <param name="type">What travels under it.</param>
    /// <param name="networkDevice">The network interface whose address it is; null or empty when there is none, as in InfiniBand.</param>
    internal GidTableEntry(int index, ReadOnlySpan<byte> gid, GidTableType type, string? networkDevice)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(gid.Length, GidLength);
        Index = index;
        Gid = gid.ToArray();
        Type = type;
        NetworkDevice = string.IsNullOrEmpty(networkDevice) ? null : networkDevice;
    }

    /// <summary>An empty place.</summary>
    internal static GidTableEntry None { get; } = new(0, new byte[GidLength], GidTableType.InfiniBand, null);

    internal int Index { get; }

    internal byte[] Gid { get; }

    internal GidTableType Type { get; }

    internal string? NetworkDevice { get; }

    /// <summary>Whether it is the same GID in the same place.</summary>
    public bool Equals(GidTableEntry? other) => other is not null && Index == other.Index && Type == other.Type && Gid.AsSpan().SequenceEqual(other.Gid);

    public override bool Equals(object? obj) => Equals(obj as GidTableEntry);

    public override int GetHashCode() => Index;

    internal bool IsNull => !Gid.AsSpan().ContainsAnyExcept((byte)0);

    /// <summary>An IPv4 address in IPv6's mapped form, ::ffff:a.b.c.d.</summary>
    internal bool IsIPv4 => !Gid.AsSpan(0, 10).ContainsAnyExcept((byte)0) && Gid[10] == 0xff && Gid[11] == 0xff;

    /// <summary>fe80::/10.</summary>
    internal bool IsLinkLocal => Gid[0] == 0xfe && (Gid[1] & 0xc0) == 0x80;

    /// <summary>The GID on the wire: 16 two-digit hexadecimal bytes joined by colons.</summary>
    internal string WireText
    {
        get
        {
            Span<char> text = stackalloc char[(GidLength * 3) - 1];
            for (int index = 0; index < GidLength; index++)
            {
                _ = Gid[index].TryFormat(text[(index * 3)..], out _, "x2", CultureInfo.InvariantCulture);
                if (index != GidLength - 1)
                {
                    text[(index * 3) + 2] = ':';
                }
            }
            return new string(text);
        }
    }

    /// <summary>The GID for people: the address that it is.</summary>
    internal string AddressText => IsIPv4 ? new IPAddress(Gid.AsSpan(12)).ToString() : new IPAddress(Gid).ToString();

    internal string TypeText => Type switch
    {
        GidTableType.InfiniBand => "IB",
        GidTableType.RoceV1 => "RoCE v1",
        GidTableType.RoceV2 => "RoCE v2",
        _ => "unknown",
    };
}

/// <summary>What travels under a GID; the values are <c>enum ibv_gid_type</c>'s.</summary>
internal enum GidTableType
{
    InfiniBand = 0,
    RoceV1 = 1,
    RoceV2 = 2,
}
