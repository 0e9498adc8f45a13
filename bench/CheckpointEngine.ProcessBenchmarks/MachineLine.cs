using System.Runtime.InteropServices;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>The machine and what was measured on it, in one line: a figure without it says nothing.</summary>
internal static class MachineLine
{
    internal static string Read(Workbench bench)
    {
        string cpu = FieldOf("/proc/cpuinfo", "model name");
        string memory = FieldOf("/proc/meminfo", "MemTotal");
        double gib = double.TryParse(memory.Split(' ')[0], out double kib) ? kib / (1 << 20) : 0;
        string congestion = ReadOr("/proc/sys/net/ipv4/tcp_congestion_control", "unknown");
        string load = string.Join(' ', ReadOr("/proc/loadavg", "").Split(' ').Take(3));
        string commit;
        try
        {
            commit = Workbench.Run("git", "-C", bench.Root, "describe", "--always", "--dirty").Trim();
        }
        catch (Exception failure) when (failure is BenchmarkFailedException or System.ComponentModel.Win32Exception)
        {
            commit = "unknown";
        }
        return $"machine: {cpu}, {Environment.ProcessorCount} cores, {gib:0} GiB; {RuntimeInformation.OSDescription}; congestion control {congestion}; "
            + $"{RuntimeInformation.FrameworkDescription}; load {load}; commit {commit}, command built {File.GetLastWriteTimeUtc(bench.Command):yyyy-MM-dd HH:mm}Z";
    }

    private static string FieldOf(string file, string name)
        => File.ReadLines(file).FirstOrDefault(line => line.StartsWith(name, StringComparison.Ordinal))?.Split(':', 2)[1].Trim() ?? "unknown";

    private static string ReadOr(string file, string fallback) => File.Exists(file) ? File.ReadAllText(file).Trim() : fallback;
}
