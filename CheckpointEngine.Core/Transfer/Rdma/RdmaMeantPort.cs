namespace CheckpointEngine.Transfer.Rdma;

/// <summary>A port that is meant: it is used, or will be when it is up.</summary>
/// <param name="device">Its device, open.</param>
/// <param name="port">The port.</param>
/// <param name="name">What peers and reports call it: as the device (<c>mlx5_0</c>), but for further ports of one (<c>mlx5_0:2</c>).</param>
internal sealed class RdmaMeantPort(RdmaDevice device, RdmaPort port, string name)
{
    internal RdmaDevice Device { get; } = device;

    internal RdmaPort Port { get; } = port;

    internal string Name { get; } = name;
}
