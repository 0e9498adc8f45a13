using CheckpointEngine.Http.Replies;
using Microsoft.AspNetCore.Http;

namespace CheckpointEngine.Http.Requests;

/// <summary>Confines registration over HTTP to the paths that the server's owner allows.</summary>
/// <remarks>
/// What is checked is what the path leads to, every symbolic link on the way resolved, and that resolved path is what is registered, so that
/// a link changed afterwards changes nothing. Someone who can replace whole directories below an allowed path between check and use can read
/// files there that this process may read: allow only directories that strangers cannot write.
/// </remarks>
internal sealed class AllowedPaths(IReadOnlyList<string> roots)
{
    private const int MaxLinks = 40;        // as Linux has it (path_resolution(7)); a loop ends here

    /// <summary>Checks one path and returns what it leads to.</summary>
    /// <exception cref="HttpProblemException">400: not an absolute path. 403: outside.</exception>
    internal string Resolve(string? path)
    {
        if (roots.Count == 0)
        {
            throw new HttpProblemException(StatusCodes.Status403Forbidden,
                "files cannot be registered over HTTP: no directory is allowed; start the server with --allow-path DIR");
        }
        if (string.IsNullOrEmpty(path) || path.Contains('\0') || !Path.IsPathRooted(path))
        {
            throw new HttpProblemException(StatusCodes.Status400BadRequest, $"'{path}' is not an absolute path; name files as the server's host sees them");
        }
        string resolved = ResolveInside(path, path);
        // Of a directory, and of an index's, the files in it are read too.
        string? directory = Directory.Exists(resolved) ? resolved : resolved.EndsWith(".json", StringComparison.Ordinal) ? Path.GetDirectoryName(resolved) : null;
        if (directory is not null)
        {
            CheckEntries(path, directory);
        }
        return resolved;
    }

    // An index may name files in directories below its own, so all that can be reached from there is looked at.
    private void CheckEntries(string asked, string directory)
    {
        const int MaxEntries = 100_000;
        int entries = 0;
        var seen = new HashSet<string> { directory };
        var waiting = new Queue<string>([directory]);
        try
        {
            while (waiting.TryDequeue(out string? current))
            {
                foreach (FileSystemInfo entry in new DirectoryInfo(current).EnumerateFileSystemInfos())
                {
                    if (++entries > MaxEntries)
                    {
                        throw Outside(asked, $"there are more than {MaxEntries:N0} files below it, and each is checked for leading elsewhere");
                    }
                    string resolved = entry.LinkTarget is null ? entry.FullName : ResolveInside(asked, entry.FullName);
                    if (Directory.Exists(resolved) && seen.Add(resolved))
                    {
                        waiting.Enqueue(resolved);
                    }
                }
            }
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw Outside(asked, failure.Message);
        }
    }

    private string ResolveInside(string asked, string path)
    {
        string resolved = ResolveLinks(asked, path);
        foreach (string root in roots)
        {
            string allowed = ResolveLinks(asked, Path.GetFullPath(root));
            if (resolved == allowed || resolved.StartsWith(allowed.EndsWith('/') ? allowed : allowed + '/', StringComparison.Ordinal))
            {
                return resolved;
            }
        }
        throw Outside(asked, path == asked ? "it leads to a place outside of the allowed directories" : $"its entry {Path.GetFileName(path)} leads to a place outside of the allowed directories");
    }

    // What realpath(3) does, but that what is missing is taken as it is written: the answer does not tell what exists outside.
    private static string ResolveLinks(string asked, string path)
    {
        var left = new Stack<string>();
        PushParts(left, path);
        string at = "/";
        int links = 0;
        while (left.TryPop(out string? part))
        {
            if (part is "" or ".")
            {
                continue;
            }
            if (part == "..")
            {
                at = Path.GetDirectoryName(at) ?? "/";
                continue;
            }
            string next = Path.Join(at, part);
            if (ReadLink(asked, next) is not { } target)
            {
                at = next;
                continue;
            }
            if (++links > MaxLinks)
            {
                throw Outside(asked, $"it goes through more than {MaxLinks} symbolic links");
            }
            PushParts(left, target);
            at = target.StartsWith('/') ? "/" : at;
        }
        return at;
    }

    private static string? ReadLink(string asked, string path)
    {
        try
        {
            return new FileInfo(path).LinkTarget;
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw Outside(asked, failure.Message);
        }
    }

    private static void PushParts(Stack<string> left, string path)
    {
        string[] parts = path.Split('/');
        for (int part = parts.Length - 1; part >= 0; part--)
        {
            left.Push(parts[part]);
        }
    }

    private static HttpProblemException Outside(string asked, string reason)
        => new(StatusCodes.Status403Forbidden, $"'{asked}' may not be registered over HTTP: {reason}; see --allow-path");
}
