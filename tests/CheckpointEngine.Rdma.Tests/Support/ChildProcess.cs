using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json;

namespace CheckpointEngine.Rdma.Tests.Support;

/// <summary>What a process that has ended left.</summary>
internal sealed record Outcome(int ExitCode, string Output, string Errors)
{
    public Outcome Succeeded()
    {
        Assert.True(ExitCode == 0, ToString());
        return this;
    }

    /// <summary>Its last line of stdout, which is JSON.</summary>
    public JsonElement Json()
    {
        string? last = Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).LastOrDefault();
        Assert.True(last is not null, ToString());
        using JsonDocument document = JsonDocument.Parse(last);
        return document.RootElement.Clone();
    }

    public override string ToString() => $"exit {ExitCode}\n{Output}\n{Errors}";
}

/// <summary>A running program; all that it writes is read as it comes, and it never outlives the test.</summary>
internal sealed partial class ChildProcess : IAsyncDisposable
{
    public const int SigKill = 9;
    public const int SigTerm = 15;
    public const int SigCont = 18;
    public const int SigStop = 19;

    // Far beyond what anything here takes, also emulated; a test that waits this long has failed.
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(120);

    private readonly Process _process;
    private readonly List<string> _output = [];
    private readonly List<TaskCompletionSource> _waiters = [];
    private readonly Task _readingOutput;
    private readonly Task<string> _readingErrors;

    private ChildProcess(Process process)
    {
        _process = process;
        _readingOutput = ReadOutputAsync();
        _readingErrors = process.StandardError.ReadToEndAsync();
    }

    public int ProcessId => _process.Id;

    public bool HasExited => _process.HasExited;

    /// <summary>Its stdin stays open until <see cref="CloseInput"/> or the end.</summary>
    public static ChildProcess Start(string program, params IEnumerable<string> arguments)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true };
        start.Environment.Remove("CHECKPOINT_ENGINE_TOKEN");
        return new ChildProcess(Process.Start(start)!);
    }

    public static async Task<Outcome> RunAsync(string program, params IEnumerable<string> arguments)
    {
        await using ChildProcess process = Start(program, arguments);
        process.CloseInput();
        return await process.EndAsync();
    }

    public void CloseInput() => _process.StandardInput.Close();

    public void Signal(int signal) => Assert.Equal(0, kill(_process.Id, signal));

    /// <summary>Waits until a line of stdout starts like that; fails when the program ends before.</summary>
    public async Task<JsonElement> WaitForJsonAsync(string start)
    {
        using var patience = new CancellationTokenSource(Patience);
        while (true)
        {
            var news = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            bool ended = _readingOutput.IsCompleted;
            lock (_output)
            {
                if (_output.Find(line => line.StartsWith(start, StringComparison.Ordinal)) is { } found)
                {
                    using JsonDocument document = JsonDocument.Parse(found);
                    return document.RootElement.Clone();
                }
                _waiters.Add(news);
            }
            if (ended)
            {
                throw new InvalidOperationException($"the program ended before the line came: {await EndAsync()}");
            }
            await Task.WhenAny(news.Task, _readingOutput).WaitAsync(patience.Token);
        }
    }

    /// <summary>Waits for its end.</summary>
    public async Task<Outcome> EndAsync()
    {
        await _process.WaitForExitAsync().WaitAsync(Patience);
        await _readingOutput.WaitAsync(Patience);
        string errors = await _readingErrors.WaitAsync(Patience);
        lock (_output)
        {
            return new Outcome(_process.ExitCode, string.Concat(_output.Select(line => line + "\n")), errors);
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
