namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>Other people's tools: whether they are here, which package brings them, and their installation on demand.</summary>
internal static class ToolFinder
{
    internal const string Iperf = "iperf3";
    internal const string Ucx = "ucx_perftest";

    private static readonly (string Tool, string Package)[] s_tools = [(Iperf, "iperf3"), (Ucx, "ucx-utils")];     // names in Debian and Ubuntu
    private static readonly TimeSpan s_longestInstallation = TimeSpan.FromMinutes(5);

    internal static bool IsHere(string tool)
        => (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator).Any(directory => directory.Length != 0 && File.Exists(Path.Combine(directory, tool)));

    internal static string PackageOf(string tool) => s_tools.First(known => known.Tool == tool).Package;

    /// <summary>Installs what is missing, by apt-get.</summary>
    internal static void InstallMissing()
    {
        string[] packages = [.. s_tools.Where(known => !IsHere(known.Tool)).Select(known => known.Package)];
        if (packages.Length == 0)
        {
            return;
        }
        if (!IsHere("apt-get"))
        {
            throw new BenchmarkFailedException($"--install knows apt-get alone, which is not here; install {string.Join(' ', packages)} (Debian's names) with your package manager");
        }
        if (Environment.UserName != "root")
        {
            throw new BenchmarkFailedException($"--install needs root; run: sudo apt-get install -y {string.Join(' ', packages)}");
        }
        Console.WriteLine($"apt-get install {string.Join(' ', packages)}");
        var quiet = new Dictionary<string, string> { ["DEBIAN_FRONTEND"] = "noninteractive" };
        ChildProcess.Run("apt-get", ["update"], s_longestInstallation, quiet);
        ChildProcess.Run("apt-get", ["install", "-y", "--no-install-recommends", .. packages], s_longestInstallation, quiet);
    }
}
