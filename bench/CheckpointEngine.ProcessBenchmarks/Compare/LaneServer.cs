namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>Our TCP lane as two processes: <c>lane-serve</c> and <c>lane-read</c> of CheckpointEngine.Benchmarks, which sees the engine's inside.</summary>
internal sealed class LaneServer : IDisposable
{
    private static readonly TimeSpan s_timeToStart = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(60);

    // Compiled well at the first call, like the command; not after some seconds, when a figure is over.
    private static readonly Dictionary<string, string> s_environment = new() { ["DOTNET_TieredCompilation"] = "0" };

    private readonly string _program;
    private readonly ChildProcess _server;
    private readonly string[] _portAndAddress;

    internal LaneServer(Workbench bench)
    {
        string project = Path.Combine(bench.Root, "bench", "CheckpointEngine.Benchmarks");
        // Each time: an engine that was built before this one would be measured in its place.
        Workbench.Run("dotnet", "build", project, "-c", "Release", "--nologo", "-v", "quiet");
        _program = Path.Combine(project, "bin", "Release", "net10.0", "CheckpointEngine.Benchmarks");
        _server = ChildProcess.Start(_program, ["lane-serve", $"{BlockSizes.Whole}"], Workbench.LongestServer, s_environment);
        _portAndAddress = _server.WaitForLine("", s_timeToStart).Split(' ');
    }

    internal double Measure(long block, int lanes, long bytes, int rounds)
        => Contender.ToRate(bytes, PumpServer.ParseSeconds(
            ChildProcess.Run(_program, ["lane-read", .. _portAndAddress, $"{block}", $"{bytes}", $"{lanes}", $"{rounds}"], s_longest, s_environment)));

    public void Dispose() => _server.Dispose();
}
