namespace CheckpointEngine.Metas;

/// <summary>How metas are written down.</summary>
public enum MetasFormat
{
    /// <summary>JSON: upstream's <c>/v1/metas</c>, with digests and all types.</summary>
    Json,

    /// <summary>A pickle: upstream's metas files and its first endpoint, for Python readers; without digests.</summary>
    Pickle,
}
