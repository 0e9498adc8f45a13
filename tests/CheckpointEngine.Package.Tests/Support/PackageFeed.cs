using System.Xml.Linq;

namespace CheckpointEngine.Package.Tests.Support;

/// <summary>A NuGet.config whose CheckpointEngine packages come out of artifacts/packages and nowhere else, and whose unpacked packages stay in the test's directory.</summary>
internal static class PackageFeed
{
    public static string WriteConfig(TempDirectory temp)
    {
        // What the user's cache holds need not be downloaded again: it is read as a feed, so nothing of ours can come from it or get into it.
        string cache = Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");
        var others = new List<(string Key, string Value)> { ("nuget.org", "https://api.nuget.org/v3/index.json") };
        if (Directory.Exists(cache))
        {
            others.Add(("cache", cache));
        }
        string path = temp["NuGet.config"];
        new XElement("configuration",
            new XElement("config", Add("globalPackagesFolder", temp["packages"])),
            new XElement("packageSources", new XElement("clear"), Add("artifacts", Artifacts.Packages), others.Select(other => Add(other.Key, other.Value))),
            new XElement("packageSourceMapping", new XElement("clear"), Map("artifacts", "CheckpointEngine.*"), others.Select(other => Map(other.Key, "*")))).Save(path);
        return path;
    }

    private static XElement Add(string key, string value) => new("add", new XAttribute("key", key), new XAttribute("value", value));

    private static XElement Map(string key, string pattern) => new("packageSource", new XAttribute("key", key), new XElement("package", new XAttribute("pattern", pattern)));
}
