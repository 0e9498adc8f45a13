namespace CheckpointEngine.Tests;

/// <summary>Bytes recorded from real Mooncake peers; Data/mooncake-captures/README.md tells who sent which.</summary>
internal static class Captures
{
    internal static byte[] Read(string name) => File.ReadAllBytes(Path.Combine(AppContext.BaseDirectory, "Data", "mooncake-captures", name + ".bin"));

    /// <summary>The JSON text of a captured frame that has a type byte.</summary>
    internal static byte[] ReadBody(string name) => Read(name)[9..];
}
