using System.Diagnostics;
using System.Text.Json;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary><c>checkpoint-engine serve</c>, from its start to its ready line, and <c>join</c> of what it holds.</summary>
internal sealed class HolderProcess : IDisposable
{
    private static readonly TimeSpan s_timeToStart = TimeSpan.FromMinutes(2);

    private readonly string _command;
    private readonly ChildProcess _process;

    internal HolderProcess(Workbench bench, string checkpoint, params ReadOnlySpan<string> more)
        : this(bench, [], checkpoint, ["--listen", "http://127.0.0.1:0", .. more])
    {
    }

    /// <param name="bench">The command.</param>
    /// <param name="before">Words that run it elsewhere; it becomes the process that they start.</param>
    /// <param name="checkpoint">What it holds.</param>
    /// <param name="more">Where it listens, and what else is said to it.</param>
    internal HolderProcess(Workbench bench, string[] before, string checkpoint, string[] more)
    {
        _command = bench.Command;
        long begin = Stopwatch.GetTimestamp();
        string[] words = [.. before, _command, "serve", "--checkpoint", "bench=" + checkpoint, "--json", .. more];
        _process = ChildProcess.Start(words[0], words[1..], Workbench.LongestServer);
        string ready = _process.WaitForLine("\"ready\"", s_timeToStart);
        TimeToReady = Stopwatch.GetElapsedTime(begin);
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

    /// <summary>The processor's time that it took so far, user and system.</summary>
    internal TimeSpan ProcessorTime => ProcessorClock.Of(_process.Id);

    /// <summary>Joins into memory, in a process of its own.</summary>
    /// <param name="rounds">How many.</param>
    /// <param name="verify">With every byte checked.</param>
    /// <param name="transport">The only way that the bytes may come.</param>
    /// <param name="copy">Into memory of the joiner's own, whatever the holder offers.</param>
    internal JoinResult Join(int rounds, bool verify, string transport = "tcp", bool copy = false)
    {
        string[] arguments =
        [
            "join", "--metas-url", MetasUrl, "--to", "memory", "--transport", transport, "--repeat", $"{rounds}", "--json",
            verify ? "--require-verify" : "--no-verify", .. copy ? (string[])["--copy"] : [],
        ];
        using JsonDocument report = JsonDocument.Parse(Workbench.Run(_command, arguments));
        JsonElement root = report.RootElement;
        double[] seconds = root.TryGetProperty("rounds", out JsonElement all)
            ? [.. all.EnumerateArray().Select(round => round.GetProperty("seconds").GetDouble())]
            : [root.GetProperty("seconds").GetDouble()];
        return new JoinResult(root.GetProperty("bytes").GetInt64(), seconds,
            root.GetProperty("transports").EnumerateObject().ToDictionary(plane => plane.Name, plane => plane.Value.GetInt64()),
            root.TryGetProperty("attached_bytes", out JsonElement attached) && attached.ValueKind == JsonValueKind.Number ? attached.GetInt64() : 0);
    }

    public void Dispose()
    {
        _process.Terminate();
        _process.Dispose();
    }
}

/// <summary>What a join moved in each round, in how many seconds, by which planes in the last, and how much of it was mapped and not moved.</summary>
internal sealed record JoinResult(long Bytes, double[] Seconds, IReadOnlyDictionary<string, long> Transports, long AttachedBytes);
