namespace CheckpointEngine.Transfer.Handshake;

/// <summary>One RDMA device in a segment descriptor.</summary>
/// <param name="Name">Its name, for example <c>mlx5_0</c>.</param>
/// <param name="Lid">Its local identifier; 0 on RoCE.</param>
/// <param name="Gid">Its GID: 16 two-digit hexadecimal bytes joined by colons.</param>
internal readonly record struct SegmentDevice(string Name, uint Lid, string Gid);
