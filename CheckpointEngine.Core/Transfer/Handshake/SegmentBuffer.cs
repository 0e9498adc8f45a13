namespace CheckpointEngine.Transfer.Handshake;

/// <summary>One registered region in a segment descriptor.</summary>
/// <param name="Address">Virtual address in the owner's process, as the wire counts; any of the 64 bits.</param>
/// <param name="LengthBytes">Length in bytes.</param>
/// <param name="Name">tcp: the owner's segment name; rdma: the memory location (<c>cpu:0</c>, <c>*</c>, ...).</param>
/// <param name="LocalKeys">rdma: lkey per device, in the order of the devices; else empty.</param>
/// <param name="RemoteKeys">rdma: rkey per device, in the order of the devices; else empty.</param>
internal readonly record struct SegmentBuffer(ulong Address, ulong LengthBytes, string Name, uint[] LocalKeys, uint[] RemoteKeys)
{
    /// <summary>A region without keys, as a tcp descriptor has them.</summary>
    internal SegmentBuffer(ulong address, ulong lengthBytes, string name)
        : this(address, lengthBytes, name, [], [])
    {
    }
}
