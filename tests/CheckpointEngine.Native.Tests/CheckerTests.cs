using CheckpointEngine.Native.Tests.Support;

namespace CheckpointEngine.Native.Tests;

/// <summary>The programs of <see cref="ProgramTests"/> under AddressSanitizer and under valgrind, which sees into the library as well.</summary>
public sealed class CheckerTests(Programs programs)
{
    // The runtime's handler for SIGSEGV must be allowed: it turns null references in managed code into exceptions.
    private static readonly Dictionary<string, string> s_sanitizers = new()
    {
        ["ASAN_OPTIONS"] = "allow_user_segv_handler=1:detect_leaks=1:abort_on_error=0:exitcode=99",
        ["UBSAN_OPTIONS"] = "print_stacktrace=1",
        ["LSAN_OPTIONS"] = "suppressions=" + Repository.Source("c/lsan.supp"),
        ["CE_TEST_PATIENCE"] = "3",
    };

    [Theory]
    [InlineData("bad_input")]
    [InlineData("destinations")]
    public async Task Sanitizers_FindNothing(string name)
    {
        string program = await programs.CAsync(name, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer");
        using var temp = new TempDirectory();
        (await Child.RunAsync(program, s_sanitizers, Argument(name, temp))).Succeeded();
    }

    [Fact]
    public async Task Sanitizers_CppLayer_FindNothing()
    {
        string program = await programs.CppAsync("layer", 17, dlopen: false, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined");
        using var temp = new TempDirectory();
        (await Child.RunAsync(program, s_sanitizers, temp.Path)).Succeeded();
    }

    [Theory]
    [InlineData("bad_input")]
    [InlineData("destinations")]
    public async Task Valgrind_FindsNothing(string name)
    {
        string program = await programs.CAsync(name);
        string valgrind = Repository.NeedTool("valgrind");
        using var temp = new TempDirectory();
        using var library = new TempDirectory();
        await CopyLibraryWithNamesAsync(library);
        var environment = new Dictionary<string, string> { ["CE_TEST_PATIENCE"] = "4", ["LD_LIBRARY_PATH"] = library.Path };
        (await Child.RunAsync(valgrind, environment,
            "-q", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite", "--fair-sched=yes",
            "--suppressions=" + Repository.Source("c/valgrind.supp"), program, Argument(name, temp))).Succeeded();
    }

    // The library with its symbols beside it, for the suppressions to name functions: without the lines of source, whose format valgrind may not know.
    private static async Task CopyLibraryWithNamesAsync(TempDirectory directory)
    {
        string published = Path.Combine(Repository.Root, "artifacts/lib/libcheckpoint_engine.so.dbg");
        Assert.SkipUnless(File.Exists(published), "artifacts/lib has no debug file of the library; run ./build.sh build");
        string objcopy = Repository.NeedTool("objcopy");
        (await Child.RunAsync(objcopy, "--strip-debug", published, directory["names.dbg"])).Succeeded();
        (await Child.RunAsync(objcopy, "--remove-section=.gnu_debuglink", Repository.Library, directory["unlinked"])).Succeeded();
        (await Child.RunAsync(objcopy, "--add-gnu-debuglink=" + directory["names.dbg"], directory["unlinked"], directory["libcheckpoint_engine.so.0"])).Succeeded();
    }

    private static string Argument(string name, TempDirectory temp) => name == "destinations" ? temp["copy"] : temp.Path;
}
