namespace CheckpointEngine.Package.Tests.Support;

/// <summary>A directory that goes with the test.</summary>
internal sealed class TempDirectory : IDisposable
{
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("ce-package-tests-");

    public string Path => _directory.FullName;

    public string this[string name] => System.IO.Path.Combine(Path, name);

    /// <summary>Copies a project of Consumers/ here.</summary>
    public string AddConsumer(string name)
    {
        string source = System.IO.Path.Combine(AppContext.BaseDirectory, "Consumers", name);
        string target = Directory.CreateDirectory(this[name]).FullName;
        foreach (string file in Directory.GetFiles(source))
        {
            File.Copy(file, System.IO.Path.Combine(target, System.IO.Path.GetFileName(file)));
        }
        return target;
    }

    public void Dispose() => _directory.Delete(recursive: true);
}
