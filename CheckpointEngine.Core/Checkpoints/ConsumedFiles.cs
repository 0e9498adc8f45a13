using CheckpointEngine.Internal;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Checkpoints;

/// <summary>The weight files of a checkpoint that go from <c>/dev/shm</c> once they are held: from then on its memory is the holder's alone, and goes with it.</summary>
/// <remarks>Open from before they are loaded: what has been put in the place of one meanwhile is another file, and stays. One thread.</remarks>
internal sealed class ConsumedFiles : IDisposable
{
    internal const string Place = "/dev/shm/";

    private readonly List<(SafeFileHandle Handle, string Path)> _files = [];

    /// <summary>Opens them.</summary>
    /// <param name="paths">As for <see cref="CheckpointLoader"/>.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: one is not in <see cref="Place"/>. NotFound, Io.</exception>
    internal ConsumedFiles(IReadOnlyList<string> paths)
    {
        try
        {
            foreach (string path in paths.Count == 1 ? CheckpointFiles.Discover(paths[0]).Files : paths)
            {
                SafeFileHandle file = RegularFile.Open(path, out _);
                _files.Add((file, path));
                string real = PathOf(file) ?? path;
                if (!real.StartsWith(Place, StringComparison.Ordinal))
                {
                    ThrowHelper.Throw(CheckpointError.NotSupported,
                        $"consume {path}: it is {(real == path ? "" : real + ", ")}not in {Place}, and only files that lie in memory are consumed; leave the option out, or copy the checkpoint there");
                }
                _files[^1] = (file, real);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Removes them from the directory.</summary>
    /// <returns>A remark for each that is still there.</returns>
    internal List<string> Remove()
    {
        var remarks = new List<string>();
        foreach ((SafeFileHandle file, string path) in _files)
        {
            if (PathOf(file) != path)
            {
                remarks.Add($"{path} is not what was loaded any more, and stays");
                continue;
            }
            try
            {
                File.Delete(path);
            }
            catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
            {
                remarks.Add($"{path} is held and could not be removed: {failure.Message}");
            }
        }
        return remarks;
    }

    public void Dispose() => _files.ForEach(static file => file.Handle.Dispose());

    // The kernel's word for where an open file lies; " (deleted)" behind it when it lies there no more.
    private static string? PathOf(SafeFileHandle file) => new FileInfo($"/proc/self/fd/{file.DangerousGetHandle()}").LinkTarget;
}
