using System.Diagnostics;
using System.IO.Hashing;
using System.Text;

namespace CheckpointEngine.Fuzz;

/// <summary>The corpus of one target, then mutations of it for some time. Ends with the first finding.</summary>
internal sealed class TargetRun : IDisposable
{
    // Enough for every message of a parser in a few shapes; beyond it new ones replace old ones.
    private const int MaxPool = 2048;
    private static readonly TimeSpan s_minimizingTime = TimeSpan.FromSeconds(10);

    private readonly FuzzTarget _target;
    private readonly Executor _executor;
    private readonly string _corpora;
    private readonly string _artifacts;
    private readonly int _seed;
    private readonly RunningTotals? _totals;
    private readonly HashSet<string> _signatures = [];
    private readonly List<byte[]> _pool = [];
    private long _executions;

    internal TargetRun(FuzzTarget target, string corpora, string artifacts, int seed, RunningTotals? totals = null)
    {
        _target = target;
        _corpora = corpora;
        _artifacts = artifacts;
        _seed = seed;
        _totals = totals;
        _executor = new Executor(target, artifacts);
    }

    /// <summary>Prints its line; true when nothing was found.</summary>
    internal bool Run(TimeSpan time)
    {
        long start = Stopwatch.GetTimestamp();
        TimeSpan processor = ProcessorTime();
        int seeds = 0;
        foreach (string file in SeedFiles())
        {
            byte[] input = File.ReadAllBytes(file);
            seeds++;
            if (!Try(input, keep: true, file))
            {
                return false;
            }
        }
        if (_pool.Count == 0)
        {
            Console.WriteLine($"FAIL {_target.Name}: no seeds in {Path.Combine(_corpora, _target.Folder)}");
            return false;
        }
        var mutator = new Mutator(_seed ^ (int)XxHash32.HashToUInt32(Encoding.UTF8.GetBytes(_target.Name)), _target.Tokens, _target.MaxInputBytes);
        mutator.SetPool(_pool);
        while (Stopwatch.GetElapsedTime(start) < time)
        {
            byte[] input = _target.Mutate(mutator, mutator.Pick());
            if (!Try(input, keep: false, null))
            {
                return false;
            }
            if (_pool.Count > MaxPool)
            {
                _pool.RemoveRange(seeds, MaxPool / 2);
            }
        }
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        _totals?.Add(_target.Name, ProcessorTime() - processor, _executions);
        Console.WriteLine($"ok   {_target.Name,-20} seed {_seed}  {_executions,10:N0} executions  {_executions / seconds,8:N0} exec/s  {seeds} seeds, {_signatures.Count} outcomes");
        return true;
    }

    public void Dispose() => _executor.Dispose();

    private TimeSpan ProcessorTime() => Environment.CpuUsage.TotalTime + _target.ProcessorTime;

    private IEnumerable<string> SeedFiles()
    {
        string folder = Path.Combine(_corpora, _target.Folder);
        return Directory.Exists(folder) ? Directory.EnumerateFiles(folder, _target.SeedPattern).Order(StringComparer.Ordinal) : [];
    }

    private bool Try(byte[] input, bool keep, string? file)
    {
        Outcome outcome = _executor.Execute(input);
        _executions++;
        if (outcome.Failure is not null)
        {
            Report(input, outcome.Failure, file);
            return false;
        }
        if (_signatures.Add(outcome.Signature) || keep)
        {
            _pool.Add(input);
        }
        return true;
    }

    private void Report(byte[] input, string failure, string? file)
    {
        if (file is null)
        {
            input = Minimize(input, Kind(failure), out string? shorter);
            failure = shorter ?? failure;
            file = Path.Combine(_artifacts, $"crash-{_target.Name}-{XxHash32.HashToUInt32(input):x8}");
            File.WriteAllBytes(file, input);
        }
        string reason = new([.. failure.Select(character => char.IsControl(character) && character != '\n' ? '\uFFFD' : character)]);
        Console.WriteLine($"FAIL {_target.Name}: seed {_seed}, after {_executions:N0} executions\n     input:  {file} ({input.Length:N0} bytes)\n     reason: {reason}");
    }

    // Takes pieces out, from halves down to bytes, as long as what remains fails in the same way.
    private byte[] Minimize(byte[] input, string kind, out string? failure)
    {
        failure = null;
        long start = Stopwatch.GetTimestamp();
        for (int piece = Math.Max(1, input.Length / 2); piece >= 1; piece /= 2)
        {
            for (int at = 0; at < input.Length && Stopwatch.GetElapsedTime(start) < s_minimizingTime;)
            {
                byte[] shorter = [.. input.AsSpan(0, at), .. input.AsSpan(Math.Min(input.Length, at + piece))];
                Outcome outcome = _executor.Execute(shorter);
                if (outcome.Failure is not null && Kind(outcome.Failure) == kind)
                {
                    input = shorter;
                    failure = outcome.Failure;
                }
                else
                {
                    at += piece;
                }
            }
        }
        return input;
    }

    private static string Kind(string failure) => failure[..Math.Max(0, failure.IndexOf(':'))];
}
