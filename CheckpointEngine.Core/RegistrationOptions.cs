namespace CheckpointEngine;

/// <summary>How one checkpoint of files is registered.</summary>
public sealed class RegistrationOptions
{
    /// <summary>
    /// Whether it is the next generation of the name, which may be held already. Who asks for the metas is told of the old one until all of the new one is
    /// there, and of the new one from then on; joins of the old one go on, and its memory is freed when they are done or
    /// <see cref="ParameterServerOptions.DrainTimeout"/> has passed: there must be memory for both. When it fails, the old one stays. Default false: the name must be free.
    /// </summary>
    public bool Replace { get; set; }

    /// <summary>Whether it takes the memory that is kept, and leaves its own there: see <see cref="ParameterServerOptions.SharedPool"/>. Default null: as that says.</summary>
    public bool? SharedPool { get; set; }
}
