using System.Text.RegularExpressions;
using System.Xml.Linq;

namespace CheckpointEngine.Package.Tests.Support;

/// <summary>What <c>./build.sh build pack</c> left in artifacts/; a test of what is not there skips.</summary>
internal static class Artifacts
{
    public static string Repository { get; } = FindRepository();

    /// <summary>The version in Directory.Build.props: everything that was packed has to carry it.</summary>
    public static string Version { get; } = XDocument.Load(Path.Combine(Repository, "Directory.Build.props")).Descendants("Version").Single().Value;

    public static string Packages => Path.Combine(Repository, "artifacts", "packages");

    public static string Command => Need("bin/checkpoint-engine", "build");

    public static string Library => Need("lib/libcheckpoint_engine.so." + Version, "build");

    public static string CrossLibraryPrefix => Path.GetFullPath(Path.Combine(Need($"linux-arm64/lib/libcheckpoint_engine.so.{Version}", "cross"), "../.."));

    public static string TarballName => $"checkpoint-engine-{Version}-linux-x64";

    public static string Tarball => Need($"packages/{TarballName}.tar.gz", "build pack");

    public static string Package(string id) => Need($"packages/{id}.{Version}.nupkg", "build pack");

    /// <summary>The glibc that README promises to run on; the promise stands there and nowhere else.</summary>
    public static Version PromisedGlibc()
    {
        Match promise = Regex.Match(File.ReadAllText(Path.Combine(Repository, "README.md")), @"glibc (\d+\.\d+) or newer");
        Assert.True(promise.Success, "README.md does not say which glibc is needed (\"glibc N.N or newer\")");
        return System.Version.Parse(promise.Groups[1].Value);
    }

    private static string Need(string path, string steps)
    {
        string full = Path.Combine(Repository, "artifacts", path);
        Assert.SkipUnless(File.Exists(full), $"artifacts/{path} is not there: ./build.sh {steps} first");
        return full;
    }

    private static string FindRepository()
    {
        DirectoryInfo? directory = new(AppContext.BaseDirectory);
        while (directory is not null && !File.Exists(Path.Combine(directory.FullName, "CheckpointEngine.slnx")))
        {
            directory = directory.Parent;
        }
        return directory?.FullName ?? throw new InvalidOperationException("no CheckpointEngine.slnx above " + AppContext.BaseDirectory);
    }
}
