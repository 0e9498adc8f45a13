namespace CheckpointEngine.Transfer.Handshake;

/// <summary>One entry of a descriptor's <c>priority_matrix</c>: which devices are near a memory location.</summary>
/// <param name="Location">The memory location, a <see cref="SegmentBuffer.Name"/>.</param>
/// <param name="Preferred">Names of the near devices.</param>
/// <param name="Others">Names of the others.</param>
/// <remarks>
/// Published, every entry should list all devices, preferred then others, in the order of the devices: real initiators number devices by
/// walking these lists. Read, it is a preference by name and no more. Source: docs/mooncake-wire.md.
/// </remarks>
internal readonly record struct DeviceAffinity(string Location, string[] Preferred, string[] Others);
