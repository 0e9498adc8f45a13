namespace CheckpointEngine.Internal;

/// <summary>What tells this host from others.</summary>
internal static class HostIdentity
{
    /// <summary>The kernel's boot id: the same for all processes of a host, containers included, another after each boot. Empty where there is none.</summary>
    /// <remarks>Source: random(4), /proc/sys/kernel/random/boot_id.</remarks>
    internal static string BootId { get; } = Read();

    private static string Read()
    {
        try
        {
            return File.ReadAllText("/proc/sys/kernel/random/boot_id").Trim();
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }
}
