namespace CheckpointEngine.Checkpoints;

/// <summary>A small file that belongs to a checkpoint: config, tokenizer, chat template.</summary>
/// <param name="Name">Its plain file name.</param>
/// <param name="Content">Its bytes.</param>
public sealed record SideFile(string Name, ReadOnlyMemory<byte> Content)
{
    /// <summary>The most that the side files of one checkpoint may have together, in bytes.</summary>
    public const int MaxTotalBytes = 64 << 20;
}
