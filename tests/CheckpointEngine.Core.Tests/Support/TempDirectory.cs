namespace CheckpointEngine.Tests;

/// <summary>A directory for one test, gone with Dispose.</summary>
internal sealed class TempDirectory : IDisposable
{
    internal string Path { get; } = Directory.CreateTempSubdirectory("ce-test-").FullName;

    /// <summary>The path of a file or directory in it.</summary>
    internal string this[string name] => System.IO.Path.Join(Path, name);

    internal string Write(string name, ReadOnlySpan<byte> bytes)
    {
        string path = this[name];
        Directory.CreateDirectory(System.IO.Path.GetDirectoryName(path)!);
        File.WriteAllBytes(path, bytes);
        return path;
    }

    internal string Write(string name, string text) => Write(name, System.Text.Encoding.UTF8.GetBytes(text));

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
