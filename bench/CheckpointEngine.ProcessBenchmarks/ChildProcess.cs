using System.Collections.Concurrent;
using System.ComponentModel;
using System.Diagnostics;
using System.Runtime.InteropServices;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>A process that does not outlive the benchmark: it is killed, with all that it started, when its time is over and when the benchmark is interrupted.</summary>
internal sealed partial class ChildProcess : IDisposable
{
    private const int SigTerm = 15;
    private const int ErrorLinesKept = 20;
    private static readonly TimeSpan s_timeToEnd = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan s_timeToDrain = TimeSpan.FromSeconds(2);     // of a pipe that a grandchild keeps open
    private static readonly Lock s_gate = new();
    private static readonly HashSet<ChildProcess> s_running = [];
    private static bool s_interrupted;


    private readonly record struct Line(string Text, bool IsError);

    private readonly Process _process;
    private readonly Timer _limit;
    private readonly TimeSpan _longest;
    private readonly BlockingCollection<Line> _lines = [];
    private readonly Queue<string> _lastErrors = [];
    private int _openStreams = 2;
    private volatile bool _ranTooLong;

    private ChildProcess(ProcessStartInfo start, TimeSpan longest)
    {
        _longest = longest;
        _process = new Process { StartInfo = start };
        _process.OutputDataReceived += (_, line) => Add(line.Data, isError: false);
        _process.ErrorDataReceived += (_, line) => Add(line.Data, isError: true);
        lock (s_gate)
        {
            if (s_interrupted)
            {
                throw new BenchmarkFailedException("interrupted");
            }
            try
            {
                _process.Start();
            }
            catch (Win32Exception failure)
            {
                throw new BenchmarkFailedException($"{start.FileName} could not be started: {failure.Message}");
            }
            s_running.Add(this);
        }
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
        _limit = new Timer(_ =>
        {
            _ranTooLong = true;
            Kill();
        }, null, longest, Timeout.InfiniteTimeSpan);
    }

    /// <summary>Its standard input; closed by <see cref="Dispose"/>, which tells the C programs to end.</summary>
    internal StreamWriter Input => _process.StandardInput;

    private string CommandLine => string.Join(' ', [_process.StartInfo.FileName, .. _process.StartInfo.ArgumentList]);

    /// <summary>Starts a program in the background.</summary>
    internal static ChildProcess Start(string program, IEnumerable<string> arguments, TimeSpan longest, IReadOnlyDictionary<string, string>? environment = null)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        foreach ((string name, string value) in environment ?? new Dictionary<string, string>())
        {
            start.Environment[name] = value;
        }
        return new ChildProcess(start, longest);
    }

    /// <summary>Runs a program to its end.</summary>
    /// <returns>What it printed; on request with what it wrote to stderr.</returns>
    internal static string Run(string program, IEnumerable<string> arguments, TimeSpan longest, IReadOnlyDictionary<string, string>? environment = null, bool withErrors = false)
    {
        using ChildProcess child = Start(program, arguments, longest, environment);
        child.Input.Close();
        var output = new List<string>();
        while (child.TryTake(Timeout.InfiniteTimeSpan, out Line line))
        {
            if (withErrors || !line.IsError)
            {
                output.Add(line.Text);
            }
        }
        child._process.WaitForExit(s_timeToEnd);
        return child is { _ranTooLong: false, _process: { HasExited: true, ExitCode: 0 } }
            ? string.Join('\n', output)
            : throw child.Failure(string.Join('\n', output.TakeLast(ErrorLinesKept)));
    }

    /// <summary>Reads up to the first line, of either stream, that holds a text; every line holds "".</summary>
    internal string WaitForLine(string text, TimeSpan timeout)
    {
        long start = Stopwatch.GetTimestamp();
        while (TryTake(timeout - Stopwatch.GetElapsedTime(start), out Line line))
        {
            if ((text.Length != 0 || !line.IsError) && line.Text.Contains(text, StringComparison.Ordinal))
            {
                return line.Text;
            }
        }
        throw Failure("it did not say that it is ready");
    }

    internal int Id => _process.Id;

    internal bool HasExited => _process.HasExited;

    /// <summary>Everything has been killed, and what fails now fails for that.</summary>
    internal static bool IsInterrupted
    {
        get
        {
            lock (s_gate)
            {
                return s_interrupted;
            }
        }
    }

    /// <summary>Asks it to end and waits until it has.</summary>
    internal void Terminate()
    {
        if (!_process.HasExited)
        {
            _ = kill(_process.Id, SigTerm);
            _process.WaitForExit(s_timeToEnd);
        }
    }

    /// <summary>What went wrong with it, in one line.</summary>
    internal BenchmarkFailedException Failure(string remark = "")
    {
        string how = _ranTooLong ? $"did not end within {_longest.TotalSeconds:0} s"
            : _process.WaitForExit(TimeSpan.FromMilliseconds(100)) ? $"ended with status {_process.ExitCode}" : "runs";
        string errors;
        lock (_lastErrors)
        {
            errors = string.Join(' ', _lastErrors);
        }
        return new BenchmarkFailedException($"{CommandLine}: {how}: {errors} {remark}".Trim());
    }

    /// <summary>Kills all that run, waits until they are gone, and lets no more start.</summary>
    internal static void KillAll()
    {
        lock (s_gate)
        {
            s_interrupted = true;
            foreach (ChildProcess child in s_running)
            {
                child.Kill();
            }
            foreach (ChildProcess child in s_running)
            {
                child._process.WaitForExit(s_timeToDrain);
            }
        }
    }

    /// <summary>Closes its input, which is the end of those that wait for that; else kills it.</summary>
    public void Dispose()
    {
        _limit.Dispose();
        if (!_process.HasExited)
        {
            try
            {
                Input.Close();
            }
            catch (IOException)
            {
                // It has ended meanwhile.
            }
            if (!_process.WaitForExit(s_timeToDrain))
            {
                Kill();
                _process.WaitForExit(s_timeToEnd);
            }
        }
        lock (s_gate)
        {
            s_running.Remove(this);
        }
        _process.Dispose();
    }

    private void Kill()
    {
        try
        {
            _process.Kill(entireProcessTree: true);
        }
        catch (Exception failure) when (failure is InvalidOperationException or Win32Exception or AggregateException)
        {
            // It has ended, or what it started has.
        }
    }

    private void Add(string? text, bool isError)
    {
        if (text is null)
        {
            if (Interlocked.Decrement(ref _openStreams) == 0)
            {
                _lines.CompleteAdding();
            }
            return;
        }
        if (isError)
        {
            lock (_lastErrors)
            {
                _lastErrors.Enqueue(text);
                if (_lastErrors.Count > ErrorLinesKept)
                {
                    _lastErrors.Dequeue();
                }
            }
        }
        _lines.Add(new Line(text, isError));
    }

    // False at the end of both streams, after the timeout, and a moment after its end where something else keeps a stream open.
    private bool TryTake(TimeSpan timeout, out Line line)
    {
        long start = Stopwatch.GetTimestamp();
        while (!_lines.TryTake(out line, s_timeToDrain))
        {
            if (_lines.IsCompleted || _process.HasExited)
            {
                return _lines.TryTake(out line, s_timeToDrain);     // what it said last may still be on its way
            }
            if (timeout != Timeout.InfiniteTimeSpan && Stopwatch.GetElapsedTime(start) > timeout)
            {
                return false;
            }
        }
        return true;
    }

    [LibraryImport("libc")]
    private static partial int kill(int process, int signal);
}
