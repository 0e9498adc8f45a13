using System.Text.RegularExpressions;
using CheckpointEngine.Native.Tests.Support;

namespace CheckpointEngine.Native.Tests;

/// <summary>The headers as the contract: they compile strictly, name what the library exports, and lay structs out as they always have.</summary>
public sealed partial class HeaderTests(Programs programs)
{
    private static string Header => File.ReadAllText(Path.Combine(Repository.Headers, "checkpoint_engine.h"));

    /// <summary>The header without its comments.</summary>
    private static string Declarations => Comment().Replace(Header, "");

    [Theory]
    [InlineData("gcc", "c", "c99")]
    [InlineData("gcc", "c", "c11")]
    [InlineData("g++", "c++", "c++17")]
    [InlineData("g++", "c++", "c++20")]
    [InlineData("clang", "c", "c99")]
    [InlineData("clang++", "c++", "c++17")]
    public async Task CHeader_Alone_CompilesStrictly(string compiler, string language, string standard)
    {
        using var temp = new TempDirectory();
        File.WriteAllText(temp["alone"], "#include \"checkpoint_engine.h\"\n#include \"checkpoint_engine.h\"\n");
        await Programs.CheckAsync(compiler, ["-x", language, "-std=" + standard, "-Wshadow", "-Wconversion"], temp["alone"]);
    }

    [Theory]
    [InlineData("g++", 17)]
    [InlineData("g++", 20)]
    [InlineData("clang++", 17)]
    [InlineData("clang++", 20)]
    public async Task CppHeader_InEveryProgram_CompilesStrictly(string compiler, int standard)
    {
        string[] flags = [$"-std=c++{standard}", "-Wshadow", "-Wconversion"];
        await Programs.CheckAsync(compiler, flags, Repository.Source("cpp/layer.cpp"), Path.Combine(Repository.Root, "examples/cpp/own_layout.cpp"));
        await Programs.CheckAsync(compiler, [.. flags, "-DCHECKPOINT_ENGINE_DLOPEN"], Repository.Source("cpp/layer.cpp"));
    }

    [Fact]
    public async Task CppHeader_TwiceAndInTwoFiles_DefinesNothingTwice()
        => (await Child.RunAsync(await programs.CppAsync(["twice_a", "twice_b"]))).Succeeded();

    [Fact]
    public async Task Exports_HeaderListAndLibrary_AreTheSame()
    {
        string[] declared = [.. Function().Matches(Declarations).Select(match => match.Groups[1].Value).Order(StringComparer.Ordinal)];
        string[] listed = [.. File.ReadAllLines(Path.Combine(Repository.Headers, "checkpoint_engine.exports")).Where(line => line.Length != 0).Order(StringComparer.Ordinal)];
        Assert.True(declared.Length >= 44);
        Assert.Equal(declared, listed);

        Repository.NeedArtifacts();
        string symbols = (await Child.RunAsync(Repository.NeedTool("nm"), "-D", "--defined-only", Repository.Library)).Succeeded().Output;
        string[] exported = [.. symbols.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split(' ')[^1].Split('@')[0]).Order(StringComparer.Ordinal)];
        Assert.Equal(declared, exported);
    }

    [Fact]
    public async Task Library_Soname_HasTheMajorVersion()
    {
        Repository.NeedArtifacts();
        string dynamic = (await Child.RunAsync(Repository.NeedTool("readelf"), "-d", Repository.Library)).Succeeded().Output;
        Assert.Contains("Library soname: [libcheckpoint_engine.so.0]", dynamic, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Layout_OfStructsAndConstants_IsTheOneThatCallersWereCompiledWith()
    {
        using var temp = new TempDirectory();
        (await Child.RunAsync(Repository.NeedTool("gcc"), "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I" + Repository.Headers, Repository.Source("c/abi.c"), "-o", temp["abi"])).Succeeded();
        string now = (await Child.RunAsync(temp["abi"])).Succeeded().Output;

        // What grows adds lines, and makes a struct with struct_size longer: remake the newest file with c/abi.c for a version that is not released.
        Assert.Equal(File.ReadAllText(Repository.Source("c/abi-0.3.txt")), now);
        HashSet<string> lines = [.. now.Split('\n')];
        foreach (string line in File.ReadAllLines(Repository.Source("c/abi-0.2.txt")))
        {
            string[] words = line.Split(' ');
            bool mayGrow = words[0] == "CE_ABI_MINOR" || (words[1] == "size" && lines.Contains($"{words[0]}.struct_size offset 0 size 8"));
            Assert.True(lines.Contains(line) || mayGrow, $"{line} is gone: it breaks callers that were compiled with 0.2");
        }

        // The program prints all that the header has.
        HashSet<string> printed = [.. now.Split('\n').Select(line => line.Split(' ')[0])];
        foreach (Match body in EnumBody().Matches(Declarations))
        {
            Assert.All(Enumerator().Matches(body.Groups[1].Value).Select(match => match.Value), name => Assert.Contains(name, printed));
        }
        foreach (Match body in StructBody().Matches(Declarations))
        {
            Assert.Contains(body.Groups[2].Value, printed);
            Assert.All(Field().Matches(body.Groups[1].Value).Select(match => $"{body.Groups[2].Value}.{match.Groups[1].Value}"), field => Assert.Contains(field, printed));
        }
    }

    [GeneratedRegex(@"/\*.*?\*/", RegexOptions.Singleline)]
    private static partial Regex Comment();

    [GeneratedRegex(@"^CE_API\s[^;]*?\b(ce_\w+)\(", RegexOptions.Multiline)]
    private static partial Regex Function();

    [GeneratedRegex(@"enum(?: \w+)? \{(.*?)\}", RegexOptions.Singleline)]
    private static partial Regex EnumBody();

    [GeneratedRegex(@"\bCE_\w+")]
    private static partial Regex Enumerator();

    [GeneratedRegex(@"typedef struct \w+ \{(.*?)\} (\w+);", RegexOptions.Singleline)]
    private static partial Regex StructBody();

    [GeneratedRegex(@"(\w+);")]
    private static partial Regex Field();
}
