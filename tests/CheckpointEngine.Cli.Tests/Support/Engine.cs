using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>What a command that has ended left.</summary>
internal sealed record Outcome(int ExitCode, string Output, string Errors)
{
    /// <summary>Lines on stderr that are neither warnings nor notes.</summary>
    public string[] ErrorLines => [.. Errors.Split('\n', StringSplitOptions.RemoveEmptyEntries)
        .Where(line => !line.StartsWith("checkpoint-engine: warning:", StringComparison.Ordinal) && !line.StartsWith("checkpoint-engine: note:", StringComparison.Ordinal))];

    /// <summary>Asserts exit status 1 and exactly one line that says why; returns it.</summary>
    public string FailedWithOneLine()
    {
        Assert.True(ExitCode == 1, $"exit {ExitCode}\n{Output}\n{Errors}");
        string line = Assert.Single(ErrorLines);
        Assert.StartsWith("checkpoint-engine: ", line, StringComparison.Ordinal);
        Assert.DoesNotContain("unexpected", line, StringComparison.Ordinal);
        return line;
    }

    public Outcome Succeeded()
    {
        Assert.True(ExitCode == 0, $"exit {ExitCode}\n{Output}\n{Errors}");
        return this;
    }
}

/// <summary>A running command; everything it writes is read as it comes, and it never outlives the test.</summary>
internal sealed partial class Engine : IAsyncDisposable
{
    public const int SigInt = 2;
    public const int SigKill = 9;
    public const int SigTerm = 15;
    public const int SigCont = 18;
    public const int SigStop = 19;

    // Far beyond what anything here takes; a test that waits this long has failed.
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(90);

    private readonly Process _process;
    private readonly List<string> _output = [];
    private readonly List<TaskCompletionSource> _waiters = [];
    private readonly Task _readingOutput;
    private readonly Task<string> _readingErrors;

    private Engine(Process process)
    {
        _process = process;
        _readingOutput = ReadOutputAsync();
        _readingErrors = process.StandardError.ReadToEndAsync();
    }

    /// <summary>The command under test: the build beside the tests, or the one that CHECKPOINT_ENGINE_TEST_COMMAND names.</summary>
    public static string Command => Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_TEST_COMMAND") is { Length: > 0 } named
        ? named
        : Path.Combine(AppContext.BaseDirectory, "checkpoint-engine");

    public int ProcessId => _process.Id;

    public static Engine Start(params string[] arguments) => Start(new Dictionary<string, string>(), arguments);

    public static Engine Start(Dictionary<string, string> environment, params string[] arguments) => Start(environment, [], arguments);

    /// <summary>Starts it by another command, which becomes it.</summary>
    public static Engine StartAs(string[] before, params string[] arguments) => Start([], before, arguments);

    private static Engine Start(Dictionary<string, string> environment, string[] before, string[] arguments)
    {
        string[] words = [.. before, Command, .. arguments];
        var start = new ProcessStartInfo(words[0], words[1..]) { RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true };
        start.Environment.Remove("CHECKPOINT_ENGINE_TOKEN");
        foreach ((string name, string value) in environment)
        {
            start.Environment[name] = value;
        }
        Process process = Process.Start(start)!;
        process.StandardInput.Close();
        return new Engine(process);
    }

    public static async Task<Outcome> RunAsync(params string[] arguments)
    {
        await using Engine engine = Start(arguments);
        return await engine.EndAsync();
    }

    /// <summary>Waits until a line of stdout fulfils the condition; fails when the command ends before.</summary>
    public async Task<string> WaitForLineAsync(Func<string, bool> condition)
    {
        using var patience = new CancellationTokenSource(Patience);
        while (true)
        {
            var news = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            bool ended = _readingOutput.IsCompleted;
            lock (_output)
            {
                if (_output.Find(line => condition(line)) is { } found)
                {
                    return found;
                }
                _waiters.Add(news);
            }
            if (ended)
            {
                throw new InvalidOperationException($"the command ended before the line came: {await _readingErrors}");
            }
            await Task.WhenAny(news.Task, _readingOutput).WaitAsync(patience.Token);
        }
    }

    /// <summary>Whether this process ignores a signal, which those that it starts then do, too.</summary>
    public static bool IsIgnored(int signal)
    {
        string mask = File.ReadLines("/proc/self/status").Single(line => line.StartsWith("SigIgn:", StringComparison.Ordinal))["SigIgn:".Length..];
        return (ulong.Parse(mask, NumberStyles.HexNumber | NumberStyles.AllowLeadingWhite, CultureInfo.InvariantCulture) & (1UL << (signal - 1))) != 0;
    }

    public void Signal(int signal) => Assert.Equal(0, kill(_process.Id, signal));

    /// <summary>Waits for its end.</summary>
    public async Task<Outcome> EndAsync()
    {
        await _process.WaitForExitAsync().WaitAsync(Patience);
        await _readingOutput.WaitAsync(Patience);
        lock (_output)
        {
            return new Outcome(_process.ExitCode, string.Concat(_output.Select(line => line + "\n")), _readingErrors.WaitAsync(Patience).GetAwaiter().GetResult());
        }
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
        {
            _process.Kill();
            await _process.WaitForExitAsync().WaitAsync(Patience);
        }
        await Task.WhenAll(_readingOutput, _readingErrors).WaitAsync(Patience);
        _process.Dispose();
    }

    private async Task ReadOutputAsync()
    {
        while (await _process.StandardOutput.ReadLineAsync() is { } line)
        {
            TaskCompletionSource[] waiters;
            lock (_output)
            {
                _output.Add(line);
                waiters = [.. _waiters];
                _waiters.Clear();
            }
            foreach (TaskCompletionSource waiter in waiters)
            {
                waiter.TrySetResult();
            }
        }
    }

    [LibraryImport("libc")]
    private static partial int kill(int process, int signal);
}
