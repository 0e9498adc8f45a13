using System.Globalization;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>A control group whose processes may have so much memory together, page cache included. It goes with the test.</summary>
internal sealed class MemoryLimit : IDisposable
{
    private const string Root = "/sys/fs/cgroup";

    private static int s_count;

    private readonly string _directory;
    private readonly bool _isSecondVersion;

    private MemoryLimit(string directory, bool isSecondVersion)
    {
        _directory = directory;
        _isSecondVersion = isSecondVersion;
    }

    /// <summary>Whether the limit has been reached.</summary>
    public bool WasReached => _isSecondVersion
        ? File.ReadLines(Path.Combine(_directory, "memory.events")).Any(line => line.StartsWith("max ", StringComparison.Ordinal) && line != "max 0")
        : File.ReadAllText(Path.Combine(_directory, "memory.failcnt")).Trim() != "0";

    /// <summary>Makes one, in the first version's hierarchy or the second's, or says why it cannot be.</summary>
    /// <param name="mebibytes">The limit.</param>
    /// <param name="whyNot">Why there is none.</param>
    public static MemoryLimit? TryCreate(int mebibytes, out string? whyNot)
    {
        bool isSecond = File.Exists(Path.Combine(Root, "cgroup.controllers"));
        string directory = Path.Combine(Root, isSecond ? "" : "memory", $"ce-tests-{Environment.ProcessId}-{Interlocked.Increment(ref s_count)}");
        var limit = new MemoryLimit(directory, isSecond);
        try
        {
            if (!isSecond && !Directory.Exists(Path.GetDirectoryName(directory)))
            {
                whyNot = $"no control groups with a memory controller at {Root}";
                return null;
            }
            Directory.CreateDirectory(directory);
            File.WriteAllText(Path.Combine(directory, isSecond ? "memory.max" : "memory.limit_in_bytes"), ((long)mebibytes << 20).ToString(CultureInfo.InvariantCulture));
            whyNot = null;
            return limit;
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            whyNot = $"no control group with a memory limit can be made at {Root}: {failure.Message}";
            limit.Dispose();
            return null;
        }
    }

    /// <summary>The words that run a command below the limit: the process is the command itself.</summary>
    public string[] Within() => ["sh", "-c", $"echo $$ >{_directory}/cgroup.procs && exec \"$@\"", "sh"];

    public void Dispose()
    {
        try
        {
            Directory.Delete(_directory);
        }
        catch (IOException)
        {
            // It was never made, or somebody is still in it, who will not stay.
        }
    }
}
