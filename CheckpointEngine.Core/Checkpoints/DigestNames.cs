namespace CheckpointEngine.Checkpoints;

/// <summary>The words for digest algorithms that users and peers read and write.</summary>
internal static class DigestNames
{
    internal static string ToWord(DigestAlgorithm algorithm) => algorithm switch
    {
        DigestAlgorithm.Xxh3 => "xxh3",
        DigestAlgorithm.Sha256 => "sha256",
        _ => "none",
    };

    internal static DigestAlgorithm FromWord(string word) => word switch
    {
        "xxh3" => DigestAlgorithm.Xxh3,
        "sha256" => DigestAlgorithm.Sha256,
        _ => DigestAlgorithm.None,
    };
}
