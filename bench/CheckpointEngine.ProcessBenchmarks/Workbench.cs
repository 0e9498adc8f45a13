namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>The place where a run's programs and files are: finds the repository, compiles the C, makes the checkpoint; removes it all in the end.</summary>
internal sealed class Workbench : IDisposable
{
    /// <summary>The longest that a process in the background lives, whatever happens to this one.</summary>
    internal static readonly TimeSpan LongestServer = TimeSpan.FromHours(1);

    private static readonly TimeSpan s_longestRun = TimeSpan.FromMinutes(10);

    private readonly Lock _gate = new();
    private readonly string _directory;

    internal Workbench(BenchmarkOptions options)
    {
        Options = options;
        Root = FindRoot();
        Command = Path.Combine(Root, "artifacts", "bin", "checkpoint-engine");
        if (!File.Exists(Command))
        {
            throw new BenchmarkFailedException($"{Command} is missing; run ./build.sh build first");
        }
        // Memory, so that no disk is measured.
        _directory = Directory.CreateTempSubdirectory("checkpoint-engine-bench.").FullName;
        if (Directory.Exists("/dev/shm"))
        {
            Directory.Delete(_directory);
            _directory = Directory.CreateDirectory($"/dev/shm/{Path.GetFileName(_directory)}").FullName;
        }
    }

    internal BenchmarkOptions Options { get; }

    /// <summary>The repository.</summary>
    internal string Root { get; }

    /// <summary>The command, compiled ahead of time.</summary>
    internal string Command { get; }

    /// <summary>A directory of this run.</summary>
    internal string ScratchDirectory => _directory;

    /// <summary>Compiles <c>bench/FOLDER/NAME.c</c>.</summary>
    internal string CompileC(string folder, string name)
    {
        string program = Path.Combine(_directory, name);
        if (!File.Exists(program))
        {
            string source = Path.Combine(Root, "bench", folder, name + ".c");
            Run("cc", "-O2", "-pthread", "-I", Path.Combine(Root, "interop-headers"), source, "-o", program, "-ldl");
        }
        return program;
    }

    /// <summary>The directory of a checkpoint with a real model's tensors, scaled to <see cref="BenchmarkOptions.Gib"/>.</summary>
    internal string GetCheckpoint() => GetCheckpoint(Options.Gib);

    /// <inheritdoc cref="GetCheckpoint()"/>
    internal string GetCheckpoint(double gib)
    {
        string directory = Path.Combine(_directory, $"model-{gib:R}");
        if (!Directory.Exists(directory))
        {
            string project = Path.Combine(Root, "tests", "MakeCheckpoint");
            string maker = Path.Combine(project, "bin", "Release", "net10.0", "MakeCheckpoint");
            if (!File.Exists(maker))
            {
                Run("dotnet", "build", project, "-c", "Release", "--nologo", "-v", "quiet");
            }
            Run(maker, "--out", directory, "--model", "qwen2.5-7b", "--gib", gib.ToString("R", null), "--shards", "4");
        }
        return directory;
    }

    /// <summary>Runs a program to its end.</summary>
    /// <returns>What it printed.</returns>
    internal static string Run(string program, params ReadOnlySpan<string> arguments) => ChildProcess.Run(program, arguments.ToArray(), s_longestRun);

    /// <summary>Called at the end of the run and by an interruption; who comes second waits for the first.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (Directory.Exists(_directory))
            {
                Directory.Delete(_directory, recursive: true);
            }
        }
    }

    private static string FindRoot()
    {
        for (DirectoryInfo? directory = new(AppContext.BaseDirectory); directory is not null; directory = directory.Parent)
        {
            if (File.Exists(Path.Combine(directory.FullName, "CheckpointEngine.slnx")))
            {
                return directory.FullName;
            }
        }
        throw new BenchmarkFailedException("the repository was not found above this program; run it by dotnet run from there");
    }
}
