namespace CheckpointEngine.Checkpoints;

/// <summary>What stands behind the memory of a <see cref="MemoryBuffer"/>.</summary>
public enum MemoryBufferKind
{
    /// <summary>A file, mapped shared and read-only where it is.</summary>
    MappedFile,

    /// <summary>Memory of this process alone, in huge pages where the kernel gives them.</summary>
    Anonymous,

    /// <summary>A sealed file in memory, which another process can map too.</summary>
    Memfd,

    /// <summary>The caller's own memory.</summary>
    Borrowed,
}
