namespace CheckpointEngine.Native.Tests.Support;

/// <summary>Where things are in the working tree, and why a test cannot run when they are not.</summary>
internal static class Repository
{
    public static string Root { get; } = FindRoot();

    public static string Headers => Path.Combine(Root, "interop-headers");

    public static string LibraryDirectory => Path.Combine(Root, "artifacts", "lib");

    public static string Library => Path.Combine(LibraryDirectory, "libcheckpoint_engine.so.0");

    public static string Command => Path.Combine(Root, "artifacts", "bin", "checkpoint-engine");

    /// <summary>A source or data file of these tests, in <c>c/</c> or <c>cpp/</c>.</summary>
    public static string Source(string name) => Path.Combine(Root, "tests", "CheckpointEngine.Native.Tests", name);

    /// <summary>Skips the test unless what <c>./build.sh build</c> makes is there.</summary>
    public static void NeedArtifacts()
    {
        Assert.SkipUnless(File.Exists(Library), "artifacts/lib has no libcheckpoint_engine.so.0; run ./build.sh build");
        Assert.SkipUnless(File.Exists(Command), "artifacts/bin has no checkpoint-engine; run ./build.sh build");
    }

    /// <summary>Skips the test unless the program is in the PATH.</summary>
    public static string NeedTool(string name)
    {
        string? found = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Select(directory => Path.Combine(directory, name)).FirstOrDefault(File.Exists);
        Assert.SkipUnless(found is not null, $"there is no {name} in the PATH");
        return found!;
    }

    private static string FindRoot()
    {
        for (string? directory = AppContext.BaseDirectory; directory is not null; directory = Path.GetDirectoryName(directory))
        {
            if (File.Exists(Path.Combine(directory, "CheckpointEngine.slnx")))
            {
                return directory;
            }
        }
        throw new InvalidOperationException("the tests do not lie in a working tree");
    }
}
