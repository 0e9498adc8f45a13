namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>CPython with upstream's class names: what a process of Python's checkpoint-engine does with metas.</summary>
internal static class PythonWorld
{
    private static readonly string s_script = Path.Combine(AppContext.BaseDirectory, "python", "world.py");
    private static readonly Dictionary<string, string> s_environment = new() { ["PYTHONDONTWRITEBYTECODE"] = "1" };

    // Debian's, which sees Debian's torch; another on the PATH does not.
    private static readonly string s_python = Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_TEST_PYTHON") is { Length: > 0 } named ? named : "/usr/bin/python3";

    /// <summary>Makes upstream's objects of metas and pickles them.</summary>
    public static Task DumpAsync(string json, string pickle, int protocol = 4) => RunAsync("dump", json, pickle, $"{protocol}");

    /// <summary>Loads a pickle over upstream's class names; what it holds, as JSON.</summary>
    public static Task<string> LoadAsync(string pickle) => RunAsync("load", pickle);

    /// <summary>Tells metas over HTTP; its first line is the port.</summary>
    public static ToolProcess Serve(string json)
    {
        NeedPython();
        return ToolProcess.Start(s_environment, s_python, s_script, "serve", json);
    }

    /// <summary>Whether the real torch is there.</summary>
    public static async Task<bool> HasTorchAsync() => (await RunAsync("torch")).Trim() != "stand-in";

    private static Task<string> RunAsync(params string[] arguments)
    {
        NeedPython();
        return ToolProcess.RunAsync(s_environment, s_python, [s_script, .. arguments]);
    }

    private static void NeedPython() => Assert.SkipUnless(File.Exists(s_python), $"there is no {s_python} to play the Python side");
}
