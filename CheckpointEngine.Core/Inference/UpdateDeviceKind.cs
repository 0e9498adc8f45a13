namespace CheckpointEngine.Inference;

/// <summary>Which memory the workers are given.</summary>
public enum UpdateDeviceKind
{
    /// <summary>Shared memory of this host, one piece for all workers.</summary>
    Host,

    /// <summary>Memory of each worker's own GPU.</summary>
    Cuda,

    /// <summary>Of the GPUs where this process sees one for each worker, else of this host.</summary>
    Auto,
}
