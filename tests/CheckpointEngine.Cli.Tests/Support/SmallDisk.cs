using System.Diagnostics;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>A file system of a few MiB, in memory. It goes with the test.</summary>
internal sealed class SmallDisk : IDisposable
{
    private readonly string _directory;

    private SmallDisk(string directory) => _directory = directory;

    /// <summary>Mounts one, or says why it cannot be.</summary>
    /// <param name="directory">Where; it is made if it is not there.</param>
    /// <param name="mebibytes">How large it is.</param>
    /// <param name="whyNot">Why there is none.</param>
    public static SmallDisk? TryMount(string directory, int mebibytes, out string? whyNot)
    {
        Directory.CreateDirectory(directory);
        string errors = Run("mount", "-t", "tmpfs", "-o", $"size={mebibytes}m", "tmpfs", directory);
        whyNot = errors.Length == 0 ? null : $"a small tmpfs cannot be mounted here, which needs root (CAP_SYS_ADMIN): {errors}";
        return whyNot is null ? new SmallDisk(directory) : null;
    }

    /// <summary>Gives it another size.</summary>
    public void Resize(int mebibytes) => Assert.Equal("", Run("mount", "-o", $"remount,size={mebibytes}m", _directory));

    public void Dispose() => Run("umount", "--lazy", _directory);

    // Empty, or what was said.
    private static string Run(string command, params string[] arguments)
    {
        try
        {
            using Process process = Process.Start(new ProcessStartInfo(command, arguments) { RedirectStandardError = true })!;
            string errors = process.StandardError.ReadToEnd().Trim();
            process.WaitForExit();
            return process.ExitCode == 0 ? "" : $"{command}: {errors}";
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return $"there is no {command} command";
        }
    }
}
