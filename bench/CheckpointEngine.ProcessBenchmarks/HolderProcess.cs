using System.Diagnostics;
using System.Text.Json;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary><c>checkpoint-engine serve</c>, from its start to its ready line, and <c>join</c> of what it holds.</summary>
internal sealed class HolderProcess : IDisposable
{
    private readonly string _command;
    private readonly Process _process;

    internal HolderProcess(Workbench bench, string checkpoint, params ReadOnlySpan<string> more)
    {
        _command = bench.Command;
        var start = new ProcessStartInfo(_command, ["serve", "--checkpoint", "bench=" + checkpoint, "--listen", "http://127.0.0.1:0", "--json", .. more])
        {
            RedirectStandardOutput = true,
        };
        long begin = Stopwatch.GetTimestamp();
        _process = Process.Start(start)!;
        string? ready = _process.StandardOutput.ReadLine();
        TimeToReady = Stopwatch.GetElapsedTime(begin);
        if (ready is null)
        {
            throw new BenchmarkFailedException("checkpoint-engine serve ended before it was ready; its message stands above");
        }
        using JsonDocument line = JsonDocument.Parse(ready);
        MetasUrl = line.RootElement.GetProperty("http").GetString() + "/v1/metas";
    }

    /// <summary>The command, compiled ahead of time.</summary>
    internal string Command => _command;

    /// <summary>Its process id.</summary>
    internal int Id => _process.Id;

    /// <summary>From the start of the process to its ready line.</summary>
    internal TimeSpan TimeToReady { get; }

    internal string MetasUrl { get; }

    /// <summary>Joins into memory, in a process of its own.</summary>
    internal JoinResult Join(int rounds, bool verify)
    {
        string[] arguments = ["join", "--metas-url", MetasUrl, "--to", "memory", "--repeat", $"{rounds}", "--json", verify ? "--require-verify" : "--no-verify"];
        using JsonDocument report = JsonDocument.Parse(Workbench.Run(_command, arguments));
        JsonElement root = report.RootElement;
        return new JoinResult(root.GetProperty("bytes").GetInt64(),
            [.. root.GetProperty("rounds").EnumerateArray().Select(round => round.GetProperty("seconds").GetDouble())]);
    }

    public void Dispose()
    {
        Workbench.Run("kill", "-TERM", $"{_process.Id}");
        _process.StandardOutput.ReadToEnd();
        _process.WaitForExit();
        _process.Dispose();
    }
}

/// <summary>What a join moved in each round, and in how many seconds.</summary>
internal sealed record JoinResult(long Bytes, double[] Seconds);
