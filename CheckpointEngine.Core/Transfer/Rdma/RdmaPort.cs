namespace CheckpointEngine.Transfer.Rdma;

/// <summary>One port of an RDMA device, as it was when devices were looked for.</summary>
internal sealed class RdmaPort
{
    /// <summary>Its number, counted from 1.</summary>
    internal required int Number { get; init; }

    /// <summary>IBV_PORT_*.</summary>
    internal required int State { get; init; }

    /// <summary>The MTU in use, IBV_MTU_*.</summary>
    internal required int ActiveMtu { get; init; }

    /// <summary>IBV_LINK_LAYER_*.</summary>
    internal required int LinkLayer { get; init; }

    /// <summary>The local identifier; 0 on Ethernet.</summary>
    internal required int Lid { get; init; }

    /// <summary>The longest message, in bytes: an RDMA read may not be longer.</summary>
    internal required uint MaxMessageBytes { get; init; }

    /// <summary>Gigabits a second (10^9), of all lanes together; 0 when the device does not say.</summary>
    internal required double GigabitsPerSecond { get; init; }

    /// <summary>What the port's GID table holds.</summary>
    internal required GidTableEntry[] Gids { get; init; }

    /// <summary>Under which of them connections are made.</summary>
    internal required GidChoice GidChoice { get; init; }

    /// <summary>Whether the user's words take the port, or nobody said anything.</summary>
    internal bool IsSelected { get; set; }

    /// <summary>Why the port cannot be used, and what to do; null when it can.</summary>
    internal required string? Unusable { get; init; }

    internal bool IsActive => State == Interop.LibIbverbs.IBV_PORT_ACTIVE;

    /// <summary>Gigabits a second by width and speed as <c>ibv_port_attr</c> has them: bits of which one is set.</summary>
    internal static double Speed(int width, int speed)
    {
        int lanes = width switch { 1 => 1, 2 => 4, 4 => 8, 8 => 12, 16 => 2, _ => 0 };
        double perLane = speed switch { 1 => 2.5, 2 => 5, 4 or 8 => 10, 16 => 14, 32 => 25, 64 => 50, 128 => 100, _ => 0 };
        return lanes * perLane;
    }
}
