using System.Globalization;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>What a process has at a moment.</summary>
/// <param name="OwnBytes">Resident memory that is not of files below the directory of its checkpoints.</param>
/// <param name="Threads">Threads.</param>
/// <param name="Descriptors">Open descriptors, but for assemblies: a command that is compiled as it runs opens more and more of those.</param>
internal sealed record Figures(long OwnBytes, int Threads, int Descriptors)
{
    /// <summary>Reads them.</summary>
    /// <param name="process">Its number; it must be alive.</param>
    /// <param name="directory">Where checkpoints lie, whose mapped files are not the process's own memory.</param>
    public static Figures Read(int process, string directory)
    {
        long own = 0;
        bool counts = true;
        foreach (string line in File.ReadLines($"/proc/{process}/smaps"))
        {
            string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (!words[0].EndsWith(':'))
            {
                counts = !line.Contains(directory, StringComparison.Ordinal);
            }
            else if (counts && words[0] == "Rss:")
            {
                own += long.Parse(words[1], CultureInfo.InvariantCulture) << 10;
            }
        }
        int descriptors = Directory.GetFileSystemEntries($"/proc/{process}/fd").Count(path => new FileInfo(path).LinkTarget is { } target && !target.EndsWith(".dll", StringComparison.Ordinal));
        return new Figures(own, Directory.GetDirectories($"/proc/{process}/task").Length, descriptors);
    }

    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{OwnBytes >> 20} MiB, {Threads} threads, {Descriptors} descriptors");
}
