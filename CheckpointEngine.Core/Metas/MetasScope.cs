namespace CheckpointEngine.Metas;

/// <summary>Whose part of a checkpoint's metas is asked for.</summary>
public enum MetasScope
{
    /// <summary>All owners that this process knows of, itself among them.</summary>
    World = 0,

    /// <summary>Only what this process holds.</summary>
    Local,
}
