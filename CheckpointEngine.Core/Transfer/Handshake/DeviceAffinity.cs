namespace CheckpointEngine.Transfer.Handshake;

/// <summary>One entry of a descriptor's <c>priority_matrix</c>: which devices are near a memory location.</summary>
/// <param name="location">The memory location, a <see cref="SegmentBuffer.Name"/>.</param>
/// <param name="preferred">Names of the near devices.</param>
/// <param name="others">Names of the others.</param>
/// <remarks>
/// Published, every entry should list all devices, preferred then others, the devices being in the order of one of them: real initiators number devices by
/// walking these lists. Read, it is a preference by name and no more. Source: docs/mooncake-wire.md.
/// </remarks>
internal sealed class DeviceAffinity(string location, string[] preferred, string[] others)
{
    internal string Location { get; } = location;

    internal string[] Preferred { get; } = preferred;

    internal string[] Others { get; } = others;
}
