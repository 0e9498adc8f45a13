namespace CheckpointEngine.Checkpoints;

/// <summary>A checkpoint in memory of this process.</summary>
public sealed class HeldCheckpoint : IDisposable
{
    /// <summary>Its name.</summary>
    public string Name { get; } = "";
    /// <summary>Its tensors.</summary>
    public TensorTable Tensors { get; } = TensorTable.Empty;
    /// <summary>Its side files.</summary>
    public IReadOnlyList<SideFile> SideFiles { get; } = [];
    /// <summary>Remarks for the user.</summary>
    public IReadOnlyList<string> Warnings { get; } = [];
    /// <inheritdoc/>
    public void Dispose() { }
}
