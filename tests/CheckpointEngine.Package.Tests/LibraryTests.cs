using System.Text.RegularExpressions;
using CheckpointEngine.Package.Tests.Support;

namespace CheckpointEngine.Package.Tests;

/// <summary>The compiled files as the loader sees them.</summary>
public sealed class LibraryTests
{
    [Theory]
    [InlineData("command")]
    [InlineData("library")]
    public async Task CompiledFile_NeedsNoNewerGlibcThanReadmeSays(string which)
    {
        string file = which == "command" ? Artifacts.Command : Artifacts.Library;
        Tool.Need("readelf");

        string versions = await Tool.RunAsync("readelf", ".", "--version-info", "--wide", file);

        Version needed = Regex.Matches(versions, @"\bGLIBC_(\d+\.\d+)").Max(match => Version.Parse(match.Groups[1].Value))!;
        Version promised = Artifacts.PromisedGlibc();
        Assert.True(needed <= promised, $"the {which} needs glibc {needed}, README.md promises {promised}: it was linked on a newer system than releases are");
    }

    [Fact]
    public async Task Library_Exports_ExactlyTheContract()
    {
        string library = Artifacts.Library;
        Tool.Need("nm");

        string symbols = await Tool.RunAsync("nm", ".", "-D", "--defined-only", library);

        string[] contract = File.ReadAllLines(Path.Combine(Artifacts.Repository, "interop-headers", "checkpoint_engine.exports"));
        Assert.Equal(contract.Order(StringComparer.Ordinal), symbols.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split(' ')[^1]).Order(StringComparer.Ordinal));
    }

    [Fact]
    public async Task Library_Dynamic_HasTheSonameAndNeedsOnlyGlibc()
    {
        string library = Artifacts.Library;
        Tool.Need("readelf");

        string dynamic = await Tool.RunAsync("readelf", ".", "--dynamic", "--wide", library);

        Assert.Equal("libcheckpoint_engine.so.0", Regex.Match(dynamic, @"\(SONAME\).*\[(.+)\]").Groups[1].Value);
        Assert.Equal(["ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6"], Regex.Matches(dynamic, @"\(NEEDED\).*\[(.+)\]").Select(match => match.Groups[1].Value).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Library_Size_StaysBelow8MiB() => Assert.InRange(new FileInfo(Artifacts.Library).Length, 1, 8 << 20);

    [Fact]
    public async Task Library_Symbols_LieBesideItUnderTheNameItGives()
    {
        string library = Artifacts.Library;
        Tool.Need("readelf");

        string link = await Tool.RunAsync("readelf", ".", "--string-dump=.gnu_debuglink", library);

        string name = Regex.Match(link, @"\S+\.dbg").Value;
        Assert.True(File.Exists(Path.Combine(Path.GetDirectoryName(library)!, name)), link);
    }
}
