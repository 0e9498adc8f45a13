namespace CheckpointEngine.Http.Tests.Support;

/// <summary>Where things are in the working tree.</summary>
internal static class Repository
{
    internal static string Root { get; } = FindRoot();

    internal static string Read(string path) => File.ReadAllText(Path.Join(Root, path));

    private static string FindRoot()
    {
        for (string? directory = AppContext.BaseDirectory; directory is not null; directory = Path.GetDirectoryName(directory))
        {
            if (File.Exists(Path.Join(directory, "CheckpointEngine.slnx")))
            {
                return directory;
            }
        }
        throw new InvalidOperationException("the tests do not lie in a working tree");
    }
}
