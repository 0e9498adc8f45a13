using System.Text.Json;

namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>iperf3 over the loopback.</summary>
internal sealed class IperfServer : IDisposable
{
    /// <summary>The largest block that iperf3 takes.</summary>
    internal const long LargestBlock = 1 << 20;

    private const long Bytes = 1L << 30;
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(30);

    private readonly ChildProcess _server;
    private readonly int _port;

    internal IperfServer()
        => (_server, _port) = LoopbackPort.Start(port => ChildProcess.Start(ToolFinder.Iperf, ["-s", "-B", "127.0.0.1", "-p", $"{port}"], Workbench.LongestServer));

    /// <summary>GiB/s as the receiver saw them.</summary>
    internal double Measure(long block, int streams, string congestion)
    {
        string[] arguments = ["-c", "127.0.0.1", "-p", $"{_port}", "-J", "-n", $"{Bytes}", "-l", $"{block}", "-P", $"{streams}"];
        string report = ChildProcess.Run(ToolFinder.Iperf, congestion == "default" ? arguments : [.. arguments, "-C", congestion], s_longest);
        using JsonDocument document = JsonDocument.Parse(report);
        return document.RootElement.GetProperty("end").GetProperty("sum_received").GetProperty("bits_per_second").GetDouble() / 8 / (1L << 30);
    }

    public void Dispose()
    {
        _server.Terminate();
        _server.Dispose();
    }
}
