using System.Runtime.InteropServices;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Join;

/// <summary>
/// A directory that is filled beside its place and put there when it is complete: by one rename when the place is free, by exchanging the two names
/// when it is not, file by file with the index last where a file system can do neither.
/// </summary>
/// <remarks>One join at a time works on a place: it holds a lock on the partial directory. Dispose removes what was not published.</remarks>
internal sealed class PublishedDirectory : IDisposable
{
    private const string LockFileName = ".lock";

    private readonly string _place;
    private readonly bool _keepPartial;
    private readonly FileStream _lock;
    private bool _published;

    /// <summary>Makes the partial directory; one that a killed join left is emptied.</summary>
    /// <exception cref="CheckpointEngineException">The place is not ours to replace, not writable, or another join is at work on it.</exception>
    internal PublishedDirectory(string place, bool keepPartial)
    {
        _keepPartial = keepPartial;
        _place = Path.TrimEndingDirectorySeparator(Path.GetFullPath(place));
        if (Directory.Exists(_place) && new DirectoryInfo(_place).ResolveLinkTarget(returnFinalTarget: true) is FileSystemInfo target)
        {
            _place = Path.TrimEndingDirectorySeparator(target.FullName);
        }
        CheckPlace();
        string name = $".{Path.GetFileName(_place)}.ce-partial";
        string parent = IsMountPoint(_place) ? _place : Path.GetDirectoryName(_place) ?? "/";
        PartialPath = Path.Combine(parent, name);
        try
        {
            Directory.CreateDirectory(PartialPath);
            _lock = new FileStream(Path.Combine(PartialPath, LockFileName), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            bool taken = failure is IOException && File.Exists(Path.Combine(PartialPath, LockFileName));
            throw new CheckpointEngineException(taken ? CheckpointError.AlreadyExists : CheckpointError.Io, taken
                ? $"write to {_place}: another join is at work on it ({PartialPath} is locked)"
                : $"write to {_place}: cannot make {PartialPath}: {failure.Message}; its parent directory must exist and be writable", failure.HResult, failure);
        }
        foreach (FileSystemInfo left in new DirectoryInfo(PartialPath).EnumerateFileSystemInfos())
        {
            if (left.Name != LockFileName)
            {
                left.Delete();
            }
        }
    }

    /// <summary>Where files are written until <see cref="Publish"/>.</summary>
    internal string PartialPath { get; }

    /// <summary>Puts the directory in its place.</summary>
    /// <returns>Null when that was one step; else a remark that it was not.</returns>
    internal string? Publish()
    {
        File.Delete(Path.Combine(PartialPath, LockFileName));
        FlushDirectory(PartialPath);
        string? remark = null;
        bool exists = Directory.Exists(_place);
        if (Path.GetDirectoryName(PartialPath) == _place)
        {
            remark = PublishFileByFile("it is a mount point");
        }
        else if (Libc.renameat2(Libc.AT_FDCWD, PartialPath, Libc.AT_FDCWD, _place, Libc.RENAME_NOREPLACE) == 0)
        {
        }
        else if (exists && Libc.renameat2(Libc.AT_FDCWD, PartialPath, Libc.AT_FDCWD, _place, Libc.RENAME_EXCHANGE) == 0)
        {
            Directory.Delete(PartialPath, recursive: true);       // what was there before
        }
        else if (!exists && TryRename())
        {
        }
        else
        {
            remark = PublishFileByFile("its file system cannot exchange two directories");
        }
        _published = true;
        FlushDirectory(Path.GetDirectoryName(_place) ?? "/");
        return remark;
    }

    public void Dispose()
    {
        _lock.Dispose();
        if (_published || _keepPartial)
        {
            return;
        }
        try
        {
            Directory.Delete(PartialPath, recursive: true);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // It stays, and the next join to this place removes it.
        }
    }

    // What is in the place is deleted in the end, so it must be a checkpoint, or nothing.
    private void CheckPlace()
    {
        if (File.Exists(_place))
        {
            ThrowHelper.Throw(CheckpointError.Io, $"write to {_place}: it is a file, and a directory is needed");
        }
        if (!Directory.Exists(_place))
        {
            return;
        }
        foreach (FileSystemInfo entry in new DirectoryInfo(_place).EnumerateFileSystemInfos())
        {
            bool ours = entry is FileInfo
                ? CheckpointFiles.IsPartOfCheckpoint(entry.Name)
                : entry.Name.EndsWith(".ce-partial", StringComparison.Ordinal) || entry.Name == "lost+found";
            if (!ours)
            {
                ThrowHelper.Throw(CheckpointError.Io,
                    $"write to {_place}: it holds '{entry.Name}', which is no part of a checkpoint and would be deleted; choose a new or empty directory");
            }
        }
    }

    private bool TryRename()
    {
        try
        {
            Directory.Move(PartialPath, _place);
            return true;
        }
        catch (IOException)
        {
            return false;
        }
    }

    private string PublishFileByFile(string why)
    {
        Directory.CreateDirectory(_place);
        string[] files = [.. Directory.GetFiles(PartialPath).OrderBy(file => file.EndsWith(".index.json", StringComparison.Ordinal))];
        var names = files.Select(file => Path.GetFileName(file)!).ToHashSet();
        foreach (string old in Directory.GetFiles(_place))
        {
            if (!names.Contains(Path.GetFileName(old)))
            {
                File.Delete(old);
            }
        }
        foreach (string file in files)
        {
            File.Move(file, Path.Combine(_place, Path.GetFileName(file)), overwrite: true);
        }
        Directory.Delete(PartialPath, recursive: true);
        return $"{_place} was published file by file, not at one moment: {why}";
    }

    private static bool IsMountPoint(string path)
    {
        try
        {
            // Field 5 of a line is the mount point, blanks in it written as \040.
            return Directory.Exists(path) && File.ReadLines("/proc/self/mountinfo").Any(line => line.Split(' ') is { Length: > 4 } fields && fields[4].Replace("\\040", " ", StringComparison.Ordinal) == path);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    // A rename is durable once the directory that holds the name is.
    private static void FlushDirectory(string path)
    {
        try
        {
            using var directory = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
            RandomAccess.FlushToDisk(directory);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // Some file systems cannot; the names are then as durable as they make them.
        }
    }
}
