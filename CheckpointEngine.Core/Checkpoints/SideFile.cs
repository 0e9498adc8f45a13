namespace CheckpointEngine.Checkpoints;

/// <summary>A small file that makes a directory of weights a model: configuration, tokenizer, templates.</summary>
/// <param name="Name">Its name, without a directory.</param>
/// <param name="Bytes">Its content.</param>
public sealed record SideFile(string Name, ReadOnlyMemory<byte> Bytes);
