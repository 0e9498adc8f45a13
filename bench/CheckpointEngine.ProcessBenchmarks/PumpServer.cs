using System.Diagnostics;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>The sending side of <c>bench/pump/pump.c</c>, and its receiving side on demand.</summary>
internal sealed class PumpServer : IDisposable
{
    private readonly Process _process;
    private readonly string _program;
    private readonly Dictionary<string, string> _ports = [];

    /// <summary>Starts a listener for each congestion control; <c>default</c> is the system's.</summary>
    internal PumpServer(Workbench bench, long sourceBytes, params IReadOnlyList<string> congestions)
    {
        _program = bench.CompileC("pump");
        var start = new ProcessStartInfo(_program, ["serve", $"{sourceBytes}", .. congestions])
        {
            RedirectStandardInput = true,       // its end tells the pump to go
            RedirectStandardOutput = true,
        };
        _process = Process.Start(start)!;
        string[] ports = (_process.StandardOutput.ReadLine() ?? "").Split(' ');
        if (ports.Length != congestions.Count)
        {
            throw new BenchmarkFailedException("the pump's server did not start; its message stands above");
        }
        for (int i = 0; i < ports.Length; i++)
        {
            _ports.Add(congestions[i], ports[i]);
        }
    }

    /// <summary>Seconds of each round.</summary>
    internal double[] Receive(string congestion, long bytes, bool cold, int rounds, int connections)
        => [.. Workbench.Run(_program, "receive", _ports[congestion], $"{bytes}", cold ? "cold" : "warm", $"{rounds}", $"{connections}")
            .Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(double.Parse)];

    public void Dispose()
    {
        _process.StandardInput.Close();
        _process.WaitForExit();
        _process.Dispose();
    }
}
