namespace CheckpointEngine.Telemetry;

/// <summary>The words that changes of what is held are counted under.</summary>
internal static class CheckpointChange
{
    internal const string Registered = "registered";
    internal const string Replaced = "replaced";
    internal const string Updated = "updated";
    internal const string Unregistered = "unregistered";
}
