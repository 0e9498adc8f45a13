namespace CheckpointEngine;

/// <summary>How one checkpoint of files is registered.</summary>
public sealed class RegistrationOptions
{
    /// <summary>Whether it takes the memory that is kept, and leaves its own there: see <see cref="ParameterServerOptions.SharedPool"/>. Default null: as that says.</summary>
    public bool? SharedPool { get; set; }
}
