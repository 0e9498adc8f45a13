namespace CheckpointEngine.Checkpoints;

/// <summary>How the bytes of a tensor are summed: a two-level tree over chunks of <see cref="TensorDigest.ChunkBytes"/>.</summary>
public enum DigestAlgorithm : byte
{
    /// <summary>Not at all.</summary>
    None = 0,

    /// <summary>XXH3-128: catches faults of memory, network and software, not a malicious relay.</summary>
    Xxh3 = 1,

    /// <summary>SHA-256: also catches malice; several times slower.</summary>
    Sha256 = 2,
}
