using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>The files of a checkpoint on disk: its safetensors files in order, and the small files beside them.</summary>
/// <remarks>Found by name; nothing is opened but the index. Symbolic links are followed, what they end at must be a regular file.</remarks>
public sealed class CheckpointFiles
{
    /// <summary>The most bytes that all side files may have together.</summary>
    public const long MaxSideFileBytes = 64 << 20;

    private const string SafetensorsSuffix = ".safetensors";
    private const string IndexSuffix = ".safetensors.index.json";

    private CheckpointFiles(string path, string[] files, string? indexPath, SafetensorsIndex? index, string[] sideFiles, string[] warnings)
    {
        Path = path;
        Files = files;
        IndexPath = indexPath;
        Index = index;
        SideFiles = sideFiles;
        Warnings = warnings;
    }

    /// <summary>The path that was asked for.</summary>
    public string Path { get; }

    /// <summary>Paths of the safetensors files: those of the index, else all of the directory, in ordinal order; at least one.</summary>
    public IReadOnlyList<string> Files { get; }

    /// <summary>Path of the index, or null.</summary>
    public string? IndexPath { get; }

    /// <summary>The index, or null when there is none.</summary>
    public SafetensorsIndex? Index { get; }

    /// <summary>Paths of the side files (*.json but indices, tokenizer*, *.model, *.jinja, *.txt), in ordinal order. None beside a single .safetensors file: what lies there need not belong to it.</summary>
    public IReadOnlyList<string> SideFiles { get; }

    /// <summary>Side files that were left out, and why.</summary>
    public IReadOnlyList<string> Warnings { get; }

    /// <summary>Finds the files of a checkpoint.</summary>
    /// <param name="path">A directory, a .safetensors file, or an index.</param>
    /// <exception cref="CheckpointEngineException">NotFound: nothing is there, or a file of the index is missing. InvalidData: the index is bad, or a directory has several. Io.</exception>
    public static CheckpointFiles Discover(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        try
        {
            return Directory.Exists(path) ? FromDirectory(path) : FromFile(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return ThrowHelper.Throw<CheckpointFiles>(CheckpointError.Io, $"look for a checkpoint in {path}: {e.Message}", e);
        }
    }

    /// <summary>Reads the side files.</summary>
    /// <exception cref="CheckpointEngineException">NotFound, Io, or InvalidData: they have grown beyond <see cref="MaxSideFileBytes"/>.</exception>
    public IReadOnlyList<SideFile> ReadSideFiles()
    {
        long left = MaxSideFileBytes;
        var files = new List<SideFile>(SideFiles.Count);
        foreach (string path in SideFiles)
        {
            byte[] bytes = RegularFile.ReadAll(path, (int)left);
            left -= bytes.Length;
            files.Add(new SideFile(System.IO.Path.GetFileName(path), bytes));
        }
        return files;
    }

    private static CheckpointFiles FromFile(string path)
    {
        if (!RegularFile.TryGetLength(path, out _))
        {
            ThrowHelper.Throw(CheckpointError.NotFound, $"{path}: no directory or regular file is there");
        }
        if (path.EndsWith(SafetensorsSuffix, StringComparison.Ordinal))
        {
            return new CheckpointFiles(path, [path], null, null, [], []);
        }
        if (path.EndsWith(".json", StringComparison.Ordinal))
        {
            string directory = System.IO.Path.GetDirectoryName(path) is { Length: > 0 } parent ? parent : ".";
            return FromIndex(path, directory, path, ListNames(directory));
        }
        return ThrowHelper.Throw<CheckpointFiles>(CheckpointError.InvalidData, $"{path}: a checkpoint is a directory, a .safetensors file or a {IndexSuffix} file");
    }

    private static CheckpointFiles FromDirectory(string path)
    {
        string[] names = ListNames(path);
        string[] indices = Array.FindAll(names, name => name.EndsWith(IndexSuffix, StringComparison.Ordinal));
        string? index = Array.IndexOf(indices, SafetensorsIndex.FileName) >= 0 ? SafetensorsIndex.FileName : indices.Length == 1 ? indices[0] : null;
        if (index is not null)
        {
            return FromIndex(path, path, System.IO.Path.Join(path, index), names);
        }
        if (indices.Length > 1)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"{path}: there are several indices ({string.Join(", ", indices)}); name the one that is meant");
        }
        string[] files = [.. names.Where(name => name.EndsWith(SafetensorsSuffix, StringComparison.Ordinal)).Select(name => System.IO.Path.Join(path, name))];
        if (files.Length == 0)
        {
            ThrowHelper.Throw(CheckpointError.NotFound, $"{path}: the directory has no *{SafetensorsSuffix} file");
        }
        (string[] sideFiles, string[] warnings) = FindSideFiles(path, names);
        return new CheckpointFiles(path, files, null, null, sideFiles, warnings);
    }

    private static CheckpointFiles FromIndex(string path, string directory, string indexPath, string[] names)
    {
        SafetensorsIndex index = SafetensorsIndex.Read(indexPath);
        if (index.Files.Count == 0)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"{indexPath}: its weight_map is empty");
        }
        string[] files = [.. index.Files.Select(file => System.IO.Path.Join(directory, file))];
        foreach (string file in files)
        {
            if (!RegularFile.TryGetLength(file, out _))
            {
                ThrowHelper.Throw(CheckpointError.NotFound, $"{indexPath}: its file {file} is not there; is the download complete?");
            }
        }
        (string[] sideFiles, string[] warnings) = FindSideFiles(directory, names);
        return new CheckpointFiles(path, files, indexPath, index, sideFiles, warnings);
    }

    // Regular files (or links to such), hidden ones not, in ordinal order.
    private static string[] ListNames(string directory)
    {
        string[] names = [.. Directory.EnumerateFileSystemEntries(directory)
            .Select(entry => System.IO.Path.GetFileName(entry))
            .Where(name => !name.StartsWith('.') && RegularFile.TryGetLength(System.IO.Path.Join(directory, name), out _))];
        Array.Sort(names, StringComparer.Ordinal);
        return names;
    }

    private static (string[] Paths, string[] Warnings) FindSideFiles(string directory, string[] names)
    {
        var paths = new List<string>();
        var warnings = new List<string>();
        long left = MaxSideFileBytes;
        foreach (string name in names)
        {
            string path = System.IO.Path.Join(directory, name);
            if (!IsSideFile(name) || !RegularFile.TryGetLength(path, out long bytes))
            {
                continue;
            }
            if (bytes > left)
            {
                warnings.Add($"{path}: left out, its {bytes:N0} bytes bring the side files above {MaxSideFileBytes:N0} in all");
                continue;
            }
            left -= bytes;
            paths.Add(path);
        }
        return ([.. paths], [.. warnings]);
    }

    /// <summary>Whether a file of that name is one that a checkpoint directory has: weights, index, or a side file.</summary>
    internal static bool IsPartOfCheckpoint(string name)
        => name.EndsWith(".safetensors", StringComparison.Ordinal) || name.EndsWith(".json", StringComparison.Ordinal) || IsSideFile(name);

    /// <summary>Whether a file of that name is a side file: configuration, tokenizer, template; not the index.</summary>
    internal static bool IsSideFile(string name)
        => !name.EndsWith(SafetensorsSuffix, StringComparison.Ordinal)
            && !name.EndsWith(".index.json", StringComparison.Ordinal)
            && (name.EndsWith(".json", StringComparison.Ordinal)
                || name.StartsWith("tokenizer", StringComparison.Ordinal)
                || name.EndsWith(".model", StringComparison.Ordinal)
                || name.EndsWith(".jinja", StringComparison.Ordinal)
                || name.EndsWith(".txt", StringComparison.Ordinal));
}
