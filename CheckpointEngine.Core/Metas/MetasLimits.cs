namespace CheckpointEngine.Metas;

/// <summary>
/// What a metas document may hold at most, in either format: far beyond any real one, near enough to bound what a hostile one costs.
/// </summary>
internal static class MetasLimits
{
    /// <summary>Bytes of a document, decompressed.</summary>
    internal const long MaxDocumentBytes = 128L << 20;

    /// <summary>Owner ranks; thousands happen.</summary>
    internal const int MaxOwners = 1_000_000;

    /// <summary>Dimensions of a tensor; torch itself stops at 64.</summary>
    internal const int MaxDimensions = 64;

    /// <summary>UTF-8 bytes of a name, type, address or device list.</summary>
    internal const int MaxTextBytes = 64 << 10;

    /// <summary>Characters of an owner's epoch; ours has 32.</summary>
    internal const int MaxEpochChars = 64;

    /// <summary>Slots are multiples of this where a document of an older version does not give <c>aligned_size</c>.</summary>
    internal const long DefaultAlignmentBytes = 256;

    /// <summary>The slot of a tensor of <paramref name="lengthBytes"/> when its document gives none; -1 when that passes 63 bits.</summary>
    internal static long DefaultSlotBytes(long lengthBytes)
        => lengthBytes > long.MaxValue - (DefaultAlignmentBytes - 1) ? -1 : (lengthBytes + DefaultAlignmentBytes - 1) & -DefaultAlignmentBytes;
}
