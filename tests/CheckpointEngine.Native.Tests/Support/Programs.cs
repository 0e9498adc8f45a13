using System.Collections.Concurrent;
using CheckpointEngine.Native.Tests.Support;

[assembly: AssemblyFixture(typeof(Programs))]

namespace CheckpointEngine.Native.Tests.Support;

/// <summary>The C and C++ programs of these tests, each compiled once a run against the library in artifacts/.</summary>
public sealed class Programs : IDisposable
{
    private static readonly string[] s_strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I" + Repository.Headers];
    private static readonly string[] s_link = ["-L" + Repository.LibraryDirectory, "-Wl,-rpath," + Repository.LibraryDirectory, "-lcheckpoint_engine"];

    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("ce-native-tests-");
    private readonly ConcurrentDictionary<string, Lazy<Task<string>>> _built = new();

    /// <summary>A program of <c>c/NAME.c</c>.</summary>
    public Task<string> CAsync(string name, params string[] flags)
        => BuildAsync("gcc", [$"c/{name}.c"], ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-pthread", .. s_strict, .. flags], s_link);

    /// <summary>A program of <c>cpp/NAME.cpp</c> under that standard; <c>dlopen</c>: with nothing linked.</summary>
    public Task<string> CppAsync(string name, int standard = 17, bool dlopen = false, params string[] flags)
        => BuildAsync("g++", [$"cpp/{name}.cpp"], [.. CppFlags(standard, dlopen), .. flags], dlopen ? ["-ldl"] : s_link);

    /// <summary>A program of several C++ files.</summary>
    public Task<string> CppAsync(string[] names) => BuildAsync("g++", [.. names.Select(name => $"cpp/{name}.cpp")], CppFlags(17, false), s_link);

    /// <summary>Whether the compiler takes the source without a warning; nothing is built.</summary>
    internal static async Task CheckAsync(string compiler, string[] flags, params string[] sources)
        => (await Child.RunAsync(Repository.NeedTool(compiler), [.. flags, .. s_strict, "-fsyntax-only", .. sources])).Succeeded();

    public void Dispose() => _directory.Delete(recursive: true);

    private static string[] CppFlags(int standard, bool dlopen)
        => [$"-std=c++{standard}", "-g", "-pthread", "-Wshadow", "-Wconversion", .. s_strict, .. dlopen ? new[] { "-DCHECKPOINT_ENGINE_DLOPEN" } : []];

    private Task<string> BuildAsync(string compiler, string[] sources, string[] flags, string[] link)
    {
        Repository.NeedArtifacts();
        string compilerPath = Repository.NeedTool(compiler);
        return _built.GetOrAdd(string.Join(' ', [compiler, .. sources, .. flags]), _ => new Lazy<Task<string>>(() => CompileAsync())).Value;

        async Task<string> CompileAsync()
        {
            string program = Path.Combine(_directory.FullName, $"{Path.GetFileNameWithoutExtension(sources[0])}-{Guid.NewGuid():N}");
            (await Child.RunAsync(compilerPath, [.. flags, .. sources.Select(Repository.Source), "-o", program, .. link])).Succeeded();
            return program;
        }
    }
}
