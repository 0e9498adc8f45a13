using System.Diagnostics;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>A program that is not ours: started with an open stdin, whose end tells it to go; it never outlives the test.</summary>
internal sealed class ToolProcess : IAsyncDisposable
{
    private readonly Process _process;
    private readonly Task<string> _readingErrors;

    private ToolProcess(Process process)
    {
        _process = process;
        _readingErrors = process.StandardError.ReadToEndAsync();
    }

    public static ToolProcess Start(Dictionary<string, string> environment, string program, params string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        foreach ((string name, string value) in environment)
        {
            start.Environment[name] = value;
        }
        return new ToolProcess(Process.Start(start)!);
    }

    /// <summary>Runs it to its end and returns what it printed.</summary>
    public static async Task<string> RunAsync(Dictionary<string, string> environment, string program, params string[] arguments)
    {
        await using ToolProcess tool = Start(environment, program, arguments);
        tool._process.StandardInput.Close();
        string output = await tool._process.StandardOutput.ReadToEndAsync().WaitAsync(Engine.Patience);
        await tool._process.WaitForExitAsync().WaitAsync(Engine.Patience);
        Assert.True(tool._process.ExitCode == 0, $"{Path.GetFileName(program)} {arguments[0]}: exit {tool._process.ExitCode}\n{output}{await tool._readingErrors}");
        return output;
    }

    /// <summary>Its next line.</summary>
    public async Task<string> ReadLineAsync()
        => await _process.StandardOutput.ReadLineAsync().WaitAsync(Engine.Patience) ?? throw new InvalidOperationException("it ended: " + await _readingErrors);

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
        {
            _process.Kill();
            await _process.WaitForExitAsync().WaitAsync(Engine.Patience);
        }
        await _readingErrors.WaitAsync(Engine.Patience);
        _process.Dispose();
    }
}
