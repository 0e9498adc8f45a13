using System.Collections.Concurrent;
using System.ComponentModel;
using System.Diagnostics;
using System.Text.Json;

namespace CheckpointEngine.Python.Tests.Support;

/// <summary>What one test method did: "passed", "failed" with its traceback, or "skipped" with its reason.</summary>
internal sealed record PythonResult(string Outcome, string Text);

/// <summary>One file of Python tests, run once in a process of its own.</summary>
/// <param name="Results">By "Class.method".</param>
/// <param name="Output">What the process wrote, for a test that has no result.</param>
/// <param name="NotRunReason">Why nothing was run, or null.</param>
internal sealed record PythonRun(Dictionary<string, PythonResult> Results, string Output, string? NotRunReason)
{
    // A run takes a minute at most on a loaded machine with two cores; run.py ends a test that hangs long before.
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(6);

    private static readonly ConcurrentDictionary<string, Lazy<Task<PythonRun>>> s_runs = new();

    /// <summary>Where the Python tests lie.</summary>
    public static string Folder => Path.Combine(AppContext.BaseDirectory, "python");

    public static Task<PythonRun> OfAsync(string file) => s_runs.GetOrAdd(file, name => new Lazy<Task<PythonRun>>(() => RunAsync(name))).Value;

    private static async Task<PythonRun> RunAsync(string file)
    {
        string root = RepositoryRoot();
        string library = FromEnvironment("CHECKPOINT_ENGINE_LIBRARY") ?? Path.Combine(root, "artifacts", "lib", "libcheckpoint_engine.so");
        string command = FromEnvironment("CHECKPOINT_ENGINE_TEST_COMMAND") ?? Path.Combine(root, "artifacts", "bin", "checkpoint-engine");
        foreach (string needed in (string[])[library, command])
        {
            if (!File.Exists(needed))
            {
                return NotRun($"there is no {needed}; make it with ./build.sh build");
            }
        }
        string python = FromEnvironment("CHECKPOINT_ENGINE_TEST_PYTHON") ?? "/usr/bin/python3";
        string results = Path.GetTempFileName();
        var start = new ProcessStartInfo(python, ["-X", "faulthandler", "-W", "error::ResourceWarning", Path.Combine(Folder, "run.py"), file, results])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            RedirectStandardInput = true,
            WorkingDirectory = Folder,
        };
        start.Environment["CHECKPOINT_ENGINE_LIBRARY"] = library;
        start.Environment["CHECKPOINT_ENGINE_TEST_COMMAND"] = command;
        start.Environment["CHECKPOINT_ENGINE_TEST_ROOT"] = root;
        start.Environment["PYTHONDONTWRITEBYTECODE"] = "1";
        start.Environment.Remove("CHECKPOINT_ENGINE_TOKEN");
        try
        {
            using Process process = Process.Start(start)!;
            process.StandardInput.Close();
            Task<string> output = process.StandardOutput.ReadToEndAsync();
            Task<string> errors = process.StandardError.ReadToEndAsync();
            try
            {
                await process.WaitForExitAsync().WaitAsync(s_patience);
            }
            catch (TimeoutException)
            {
                process.Kill(entireProcessTree: true);
                await process.WaitForExitAsync();
            }
            string text = $"exit status {process.ExitCode}\n{await output.WaitAsync(s_patience)}\n{await errors.WaitAsync(s_patience)}";
            return new PythonRun(ReadResults(results), text, null);
        }
        catch (Win32Exception absent)
        {
            return NotRun($"there is no {python} ({absent.Message}); install python3, or name one in CHECKPOINT_ENGINE_TEST_PYTHON");
        }
        finally
        {
            File.Delete(results);
        }
    }

    private static Dictionary<string, PythonResult> ReadResults(string path)
    {
        var results = new Dictionary<string, PythonResult>();
        foreach (string line in File.ReadLines(path))
        {
            using JsonDocument document = JsonDocument.Parse(line);
            JsonElement root = document.RootElement;
            results[root.GetProperty("test").GetString()!] = new PythonResult(root.GetProperty("outcome").GetString()!, root.GetProperty("text").GetString()!);
        }
        return results;
    }

    private static PythonRun NotRun(string reason) => new([], "", reason);

    private static string? FromEnvironment(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;

    private static string RepositoryRoot()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "CheckpointEngine.slnx")))
        {
            folder = Path.GetDirectoryName(folder);
        }
        return folder ?? throw new InvalidOperationException($"{AppContext.BaseDirectory} is in no checkout: there is no CheckpointEngine.slnx above it");
    }
}
