namespace CheckpointEngine.Transfer.Handshake;

/// <summary>Which regions a descriptor lists, so that a Mooncake process with its default limit of 1 MiB takes it.</summary>
/// <remarks>Pure; any number of threads.</remarks>
internal static class PublishedBuffers
{
    // Behind the list stand the ports and what we say about ourselves, far below that.
    private const int MostListBytes = HandshakeFrame.DefaultMaxLength - (64 << 10);

    // {"addr":,"length":,"name":""}, with two numbers of up to 20 digits.
    private const int EntryBytes = 30 + 20 + 20;

    // In each of the two arrays of keys a number of up to 10 digits and a comma; "lkey":[],"rkey":[], around them, and a location for the name.
    private const int DeviceBytes = 2 * 11;
    private const int KeysBytes = 20 + 8;

    /// <summary>How many regions a descriptor over rdma has room for.</summary>
    internal static int MostOverRdma(int devices) => MostListBytes / (EntryBytes + KeysBytes + (devices * DeviceBytes));

    /// <summary>
    /// The regions over tcp. Where there are more than fit, neighbours are listed as one, with what lies between them: a Mooncake initiator does not look
    /// at the list over tcp, and the data port goes by what is registered.
    /// </summary>
    /// <param name="ranges">What is registered, by rising address.</param>
    /// <param name="name">The segment's.</param>
    internal static SegmentBuffer[] OverTcp(ReadOnlySpan<RegisteredRange> ranges, string name)
    {
        int most = MostListBytes / (EntryBytes + name.Length);
        int together = Math.Max(1, (ranges.Length + most - 1) / most);
        var buffers = new SegmentBuffer[(ranges.Length + together - 1) / together];
        for (int i = 0; i < buffers.Length; i++)
        {
            ReadOnlySpan<RegisteredRange> group = ranges.Slice(i * together, Math.Min(together, ranges.Length - (i * together)));
            buffers[i] = new SegmentBuffer(group[0].Address, group[^1].Address + group[^1].LengthBytes - group[0].Address, name);
        }
        return buffers;
    }
}
