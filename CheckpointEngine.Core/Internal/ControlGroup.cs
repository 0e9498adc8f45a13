using System.Globalization;

namespace CheckpointEngine.Internal;

/// <summary>How much memory the control groups of this process leave it. Whoever touches more is killed by the kernel, which says nothing.</summary>
/// <remarks>Both versions; limits of all groups above count. Where a container sees its own group as the root, that is the one.</remarks>
internal static class ControlGroup
{
    /// <summary>Of the groups with a limit, the one that leaves least; null where there is none, or the kernel does not tell.</summary>
    /// <param name="swapFreeBytes">What the host could swap out.</param>
    /// <param name="root">Where the host's files are.</param>
    internal static GroupRoom? FindTightest(long swapFreeBytes, string root = "/")
    {
        GroupRoom? tightest = null;
        foreach (string line in TryRead(Path.Combine(root, "proc/self/cgroup"))?.Split('\n') ?? [])
        {
            string[] parts = line.Split(':', 3);        // number, controllers, path
            bool isFirst = parts.Length == 3 && parts[1].Split(',').Contains("memory");
            if (parts.Length != 3 || (!isFirst && parts[1].Length != 0))
            {
                continue;
            }
            string mount = Path.Combine(root, isFirst ? "sys/fs/cgroup/memory" : "sys/fs/cgroup");
            string[] names = parts[2].Split('/', StringSplitOptions.RemoveEmptyEntries);
            for (int depth = names.Contains("..") ? 0 : names.Length; depth >= 0; depth--)
            {
                string group = Path.Combine([mount, .. names[..depth]]);
                if ((isFirst ? OfFirstVersion(group, swapFreeBytes) : OfSecondVersion(group, swapFreeBytes)) is { } room && (tightest is null || room.LeftBytes < tightest.Value.LeftBytes))
                {
                    tightest = room;
                }
            }
        }
        return tightest;
    }

    private static GroupRoom? OfFirstVersion(string group, long swapFreeBytes)
    {
        if (Number(group, "memory.limit_in_bytes") is not long limit || Number(group, "memory.usage_in_bytes") is not long used)
        {
            return null;
        }
        long swap = Number(group, "memory.memsw.limit_in_bytes") is long both ? Math.Max(0, both - limit) : long.MaxValue;
        return Room("memory.limit_in_bytes", limit, used - Sum(group, "total_active_file", "total_inactive_file"), Math.Min(swap, swapFreeBytes));
    }

    private static GroupRoom? OfSecondVersion(string group, long swapFreeBytes)
    {
        if (Number(group, "memory.max") is not long limit || Number(group, "memory.current") is not long used)
        {
            return null;
        }
        long swap = Number(group, "memory.swap.max") is long most ? Math.Max(0, most - (Number(group, "memory.swap.current") ?? 0)) : long.MaxValue;
        return Room("memory.max", limit, used - Sum(group, "active_file", "inactive_file", "slab_reclaimable"), Math.Min(swap, swapFreeBytes));
    }

    private static GroupRoom Room(string file, long limit, long used, long swap) => new(file, limit, Math.Max(0, limit - Math.Max(0, used) + swap));

    // Null for none: no such file, "max", and what the first version says for it, which is all bits but those of a page.
    private static long? Number(string group, string file)
        => long.TryParse(TryRead(Path.Combine(group, file)), NumberStyles.AllowTrailingWhite, CultureInfo.InvariantCulture, out long number) && number < 1L << 62 ? number : null;

    private static long Sum(string group, params ReadOnlySpan<string> names)
    {
        long sum = 0;
        foreach (string line in TryRead(Path.Combine(group, "memory.stat"))?.Split('\n') ?? [])
        {
            string[] pair = line.Split(' ');
            sum += pair.Length == 2 && names.Contains(pair[0]) && long.TryParse(pair[1], NumberStyles.None, CultureInfo.InvariantCulture, out long bytes) ? bytes : 0;
        }
        return sum;
    }

    private static string? TryRead(string path)
    {
        try
        {
            return File.ReadAllText(path);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}

/// <summary>What a control group leaves.</summary>
/// <param name="File">Its file with the limit.</param>
/// <param name="LimitBytes">What all its processes may have.</param>
/// <param name="LeftBytes">What is left of it, page cache counted as free.</param>
internal readonly record struct GroupRoom(string File, long LimitBytes, long LeftBytes);
