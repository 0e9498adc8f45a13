using System.Diagnostics;

namespace CheckpointEngine.Package.Tests.Support;

/// <summary>Runs the programs of other people: compilers, dotnet, what they built.</summary>
internal static class Tool
{
    // Far beyond what anything here takes; a test that waits this long has failed.
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(5);

    /// <summary>Skips the test where the program is not installed.</summary>
    public static void Need(params string[] programs)
    {
        foreach (string program in programs)
        {
            Assert.SkipUnless(IsInstalled(program), $"{program} is not installed");
        }
    }

    public static bool IsInstalled(string program)
        => Environment.GetEnvironmentVariable("PATH")!.Split(':').Any(directory => File.Exists(Path.Combine(directory, program)));

    /// <summary>The C compiler at hand; the test skips where there is none.</summary>
    public static string NeedCCompiler()
    {
        string? compiler = new[] { "cc", "gcc", "clang" }.FirstOrDefault(IsInstalled);
        Assert.SkipWhen(compiler is null, "there is no C compiler (cc, gcc or clang)");
        return compiler!;
    }

    /// <summary>Runs dotnet; what it starts ends with it, and the caller's settings for packages stay out.</summary>
    public static Task<string> DotnetAsync(string directory, params string[] arguments)
        => RunAsync("dotnet", directory, new Dictionary<string, string?>
        {
            ["NUGET_PACKAGES"] = null,
            ["MSBUILDDISABLENODEREUSE"] = "1",
            ["UseSharedCompilation"] = "false",
            ["DOTNET_CLI_USE_MSBUILD_SERVER"] = "0",
            ["DOTNET_CLI_TELEMETRY_OPTOUT"] = "1",
            ["DOTNET_NOLOGO"] = "1",
        }, arguments);

    public static Task<string> RunAsync(string program, string directory, params string[] arguments) => RunAsync(program, directory, [], arguments);

    /// <summary>Runs a program to its end and gives what it wrote to stdout; the test fails when it fails or takes too long.</summary>
    /// <param name="program">Its name or path.</param>
    /// <param name="directory">Where it runs.</param>
    /// <param name="environment">Set beside the test's own; null removes.</param>
    /// <param name="arguments">Its arguments.</param>
    public static async Task<string> RunAsync(string program, string directory, Dictionary<string, string?> environment, params string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            WorkingDirectory = directory,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            RedirectStandardInput = true,
        };
        foreach ((string name, string? value) in environment)
        {
            start.Environment[name] = value;
        }
        using Process process = Process.Start(start)!;
        process.StandardInput.Close();
        Task<string> output = process.StandardOutput.ReadToEndAsync(), errors = process.StandardError.ReadToEndAsync();
        try
        {
            await Task.WhenAll(process.WaitForExitAsync(), output, errors).WaitAsync(s_patience, TestContext.Current.CancellationToken);
        }
        finally
        {
            if (!process.HasExited)
            {
                process.Kill(entireProcessTree: true);
            }
        }
        Assert.True(process.ExitCode == 0, $"{program} {string.Join(' ', arguments)}: exit {process.ExitCode}\n{await output}\n{await errors}");
        return await output;
    }
}
