namespace CheckpointEngine.Rdma.Tests.Support;

/// <summary>Where things are in the working tree.</summary>
internal static class Repository
{
    public static string Root { get; } = FindRoot();

    /// <summary>The command under test, compiled ahead of time: it starts at once, also on an emulated processor.</summary>
    public static string Command => Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_TEST_COMMAND") is { Length: > 0 } named
        ? named
        : Path.Combine(Root, "artifacts", "bin", "checkpoint-engine");

    /// <summary>A file of the lab.</summary>
    public static string Lab(string name) => Path.Combine(Root, "tests", "rdma-lab", name);

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
