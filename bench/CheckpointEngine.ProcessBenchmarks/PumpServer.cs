using System.Diagnostics;
using System.Globalization;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>The sending side of <c>bench/pump/pump.c</c>, and its receiving side on demand.</summary>
internal sealed class PumpServer : IDisposable
{
    private static readonly TimeSpan s_timeToStart = TimeSpan.FromSeconds(60);

    private readonly ChildProcess _process;
    private readonly string _program;
    private readonly Dictionary<string, string> _ports = [];

    /// <summary>Starts a listener for each congestion control; <c>default</c> is the system's.</summary>
    internal PumpServer(Workbench bench, long sourceBytes, params IReadOnlyList<string> congestions)
    {
        _program = bench.CompileC("pump", "pump");
        _process = ChildProcess.Start(_program, ["serve", $"{sourceBytes}", .. congestions], Workbench.LongestServer);
        string[] ports = _process.WaitForLine("", s_timeToStart).Split(' ');
        for (int i = 0; i < ports.Length; i++)
        {
            _ports.Add(congestions[i], ports[i]);
        }
    }

    /// <summary>Seconds of each round.</summary>
    /// <param name="congestion">Of the sender, one of those it was started with.</param>
    /// <param name="bytes">Of each round, all connections together.</param>
    /// <param name="cold">Into fresh memory, over fresh connections.</param>
    /// <param name="rounds">How many.</param>
    /// <param name="connections">How many.</param>
    /// <param name="block">The size of a message; null: <paramref name="bytes"/>.</param>
    internal double[] Receive(string congestion, long bytes, bool cold, int rounds, int connections, long? block = null)
        => ParseSeconds(Workbench.Run(_program, "receive", _ports[congestion], $"{bytes}", cold ? "cold" : "warm", $"{rounds}", $"{connections}", $"{block ?? bytes}"));

    /// <summary>Seconds that many receiving processes need, from the first start to the last end: each takes all the bytes over one connection into a message of its own.</summary>
    internal double TimeProcesses(string congestion, long bytes, int processes, long block)
    {
        long start = Stopwatch.GetTimestamp();
        Process[] receivers = [.. Enumerable.Range(0, processes).Select(_ => Process.Start(new ProcessStartInfo(_program,
            ["receive", _ports[congestion], $"{bytes}", "cold", "1", "1", $"{block}"]) { RedirectStandardOutput = true })!)];
        foreach (Process receiver in receivers)
        {
            receiver.WaitForExit();
        }
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        int failed = receivers.Count(receiver => receiver.ExitCode != 0);
        Array.ForEach(receivers, receiver => receiver.Dispose());
        return failed == 0 ? seconds : throw new BenchmarkFailedException($"{failed} of {processes} receivers of the pump failed; their messages stand above");
    }

    /// <summary>One number a line, as our C programs print them.</summary>
    internal static double[] ParseSeconds(string lines)
        => [.. lines.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => double.Parse(line, CultureInfo.InvariantCulture))];

    public void Dispose() => _process.Dispose();
}
