using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Join;

/// <summary>
/// A directory that is filled beside its place and put there when it is complete: by one rename when the place is free, by exchanging the two names
/// when it is not, file by file with the index last where a file system can do neither.
/// </summary>
/// <remarks>
/// One join at a time works on a place: it holds a lock on a file beside the partial directory, which changes its name, from the first to the last
/// step. Dispose removes what was not published.
/// </remarks>
internal sealed class PublishedDirectory : IDisposable
{
    private const string LockSuffix = ".ce-lock";

    private readonly string _place;
    private bool _keepPartial;
    private readonly FileStream _lock;
    private bool _published;

    /// <summary>Makes the partial directory; of one that a killed join left, only the shards stay.</summary>
    /// <param name="place">Where it goes in the end.</param>
    /// <param name="keepPartial">Leave it when it was not published.</param>
    /// <param name="shards">Names of files that are of use if they are there.</param>
    /// <exception cref="CheckpointEngineException">The place is not ours to replace, not writable, or another join is at work on it.</exception>
    internal PublishedDirectory(string place, bool keepPartial, IReadOnlyCollection<string> shards)
    {
        _keepPartial = keepPartial;
        _place = Path.TrimEndingDirectorySeparator(Path.GetFullPath(place));
        if (Directory.Exists(_place) && new DirectoryInfo(_place).ResolveLinkTarget(returnFinalTarget: true) is FileSystemInfo target)
        {
            _place = Path.TrimEndingDirectorySeparator(target.FullName);
        }
        CheckPlace();
        string name = $".{Path.GetFileName(_place)}";
        string parent = IsMountPoint(_place) ? _place : Path.GetDirectoryName(_place) ?? "/";
        PartialPath = Path.Combine(parent, name + ".ce-partial");
        _lock = Lock(Path.Combine(parent, name + LockSuffix));
        try
        {
            foreach (FileSystemInfo left in Directory.CreateDirectory(PartialPath).EnumerateFileSystemInfos())
            {
                if (left is DirectoryInfo { LinkTarget: null } folder)
                {
                    folder.Delete(recursive: true);
                }
                else if (!shards.Contains(left.Name) || left.LinkTarget is not null)
                {
                    left.Delete();
                }
            }
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            Unlock();
            throw CannotMake(PartialPath, failure);
        }
    }

    /// <summary>Where it goes in the end; links followed.</summary>
    internal string Place => _place;

    /// <summary>Where files are written until <see cref="Publish"/>.</summary>
    internal string PartialPath { get; }

    /// <summary>Leaves the partial directory when it is not published.</summary>
    internal void KeepPartial() => _keepPartial = true;

    /// <summary>Puts the directory in its place.</summary>
    /// <returns>Null when that was one step; else a remark that it was not.</returns>
    internal string? Publish()
    {
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
        try
        {
            if (!_published && !_keepPartial && Directory.Exists(PartialPath))
            {
                Directory.Delete(PartialPath, recursive: true);
            }
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // It stays, and the next join to this place removes it.
        }
        Unlock();
    }

    private FileStream Lock(string path)
    {
        while (true)
        {
            FileStream? file = null;
            try
            {
                file = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, bufferSize: 0);
                // Who had the lock before may have removed the file after it was opened here: then it guards nothing any more.
                string? name = new FileInfo($"/proc/self/fd/{file.SafeFileHandle.DangerousGetHandle()}").LinkTarget;
                if (name?.EndsWith(" (deleted)", StringComparison.Ordinal) != true)
                {
                    return file;
                }
                file.Dispose();
            }
            catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
            {
                file?.Dispose();
                if (failure is IOException && File.Exists(path) && failure is not PathTooLongException)
                {
                    throw new CheckpointEngineException(CheckpointError.AlreadyExists, $"write to {_place}: another join is at work on it ({path} is locked)", failure.HResult, failure);
                }
                throw CannotMake(path, failure);
            }
        }
    }

    // Removed while it is still locked: nobody else can take it for his own in between.
    private void Unlock()
    {
        try
        {
            File.Delete(_lock.Name);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // It stays, unlocked.
        }
        _lock.Dispose();
    }

    private CheckpointEngineException CannotMake(string path, Exception failure) => new(CheckpointError.Io,
        $"write to {_place}: cannot make {path}: {failure.Message}; its parent directory must exist and be writable", failure.HResult, failure);

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
                ? CheckpointFiles.IsPartOfCheckpoint(entry.Name) || entry.Name.EndsWith(LockSuffix, StringComparison.Ordinal)
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
            if (!names.Contains(Path.GetFileName(old)) && old != _lock.Name)
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
    // Not File.OpenHandle, which opens no directory. Some file systems cannot; the names are then as durable as they make them.
    private static unsafe void FlushDirectory(string path)
    {
        fixed (byte* name = Encoding.UTF8.GetBytes(path + '\0'))
        {
            int fd = Libc.open(name, Libc.O_RDONLY | Libc.O_CLOEXEC);
            if (fd >= 0)
            {
                _ = Libc.fsync(fd);
                new SafeFileHandle(fd, ownsHandle: true).Dispose();
            }
        }
    }
}
