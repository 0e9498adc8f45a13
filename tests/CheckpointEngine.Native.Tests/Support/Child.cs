using System.Diagnostics;

namespace CheckpointEngine.Native.Tests.Support;

/// <summary>What a process that has ended left. After a signal the exit code is 128 and the signal's number.</summary>
internal sealed record Outcome(int ExitCode, string Output, string Errors)
{
    public const int Aborted = 128 + 6;

    public Outcome Succeeded() => EndedWith(0);

    public Outcome EndedWith(int exitCode)
    {
        Assert.True(ExitCode == exitCode, $"exit {ExitCode}, not {exitCode}\n{Output}\n{Errors}");
        return this;
    }
}

/// <summary>A running process; everything it writes is read as it comes, lines can be written to it, and it never outlives the test.</summary>
internal sealed class Child : IAsyncDisposable
{
    // Far beyond what anything here takes; a test that waits this long has failed.
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(120);

    private readonly Process _process;
    private readonly Task<string> _errors;
    private readonly List<string> _output = [];

    private Child(Process process)
    {
        _process = process;
        _errors = process.StandardError.ReadToEndAsync();
    }

    public static Child Start(string program, params string[] arguments) => Start(program, new Dictionary<string, string>(), arguments);

    public static Child Start(string program, Dictionary<string, string> environment, params string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            RedirectStandardInput = true,
        };
        start.Environment.Remove("CHECKPOINT_ENGINE_TOKEN");
        start.Environment["LD_LIBRARY_PATH"] = Repository.LibraryDirectory;
        foreach ((string name, string value) in environment)
        {
            start.Environment[name] = value;
        }
        return new Child(Process.Start(start)!);
    }

    public static Task<Outcome> RunAsync(string program, params string[] arguments) => RunAsync(program, [], arguments);

    public static async Task<Outcome> RunAsync(string program, Dictionary<string, string> environment, params string[] arguments)
    {
        await using Child child = Start(program, environment, arguments);
        return await child.EndAsync();
    }

    /// <summary>The next line of its stdout; fails when it ends before.</summary>
    public async Task<string> ReadLineAsync()
    {
        if (await _process.StandardOutput.ReadLineAsync().WaitAsync(Patience) is not { } line)
        {
            throw new InvalidOperationException($"it ended before the line came: {await _errors.WaitAsync(Patience)}");
        }
        _output.Add(line);
        return line;
    }

    public async Task WriteLineAsync(string line)
    {
        await _process.StandardInput.WriteLineAsync(line);
        await _process.StandardInput.FlushAsync();
    }

    /// <summary>Tells it something and returns its answer.</summary>
    public async Task<string> AskAsync(string line)
    {
        await WriteLineAsync(line);
        return await ReadLineAsync();
    }

    /// <summary>Ends its stdin and waits for its end.</summary>
    public async Task<Outcome> EndAsync()
    {
        _process.StandardInput.Close();
        Task<string> rest = _process.StandardOutput.ReadToEndAsync();
        await _process.WaitForExitAsync().WaitAsync(Patience);
        return new Outcome(_process.ExitCode, string.Concat(_output.Select(line => line + "\n")) + await rest.WaitAsync(Patience), await _errors.WaitAsync(Patience));
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
        {
            _process.Kill(entireProcessTree: true);
            await _process.WaitForExitAsync().WaitAsync(Patience);
        }
        await _errors.WaitAsync(Patience);
        _process.Dispose();
    }
}
