using System.Text.RegularExpressions;
using CheckpointEngine.Python.Tests.Support;

namespace CheckpointEngine.Python.Tests;

/// <summary>Each test method of the folder python as a test here: a file is run once, in one process, and each row looks up what its method did.</summary>
public sealed partial class PythonTests
{
    public static IEnumerable<TheoryDataRow<string, string>> Tests
        => Directory.GetFiles(PythonRun.Folder, "test_*.py").Order(StringComparer.Ordinal).SelectMany(path => MethodsOf(path)
            .Select(test => new TheoryDataRow<string, string>(Path.GetFileNameWithoutExtension(path), test)));

    [Theory]
    [MemberData(nameof(Tests))]
    public async Task Python_TestMethod_Passes(string file, string test)
    {
        PythonRun run = await PythonRun.OfAsync(file);
        if (run.NotRunReason is not null)
        {
            Assert.Skip(run.NotRunReason);
        }
        PythonResult? result = run.Results.GetValueOrDefault(test);
        Assert.True(result is not null, $"{file}.py ended before {test} did\n{run.Output}");
        if (result.Outcome == "skipped")
        {
            Assert.Skip(result.Text);
        }
        Assert.True(result.Outcome == "passed", result.Text);
    }

    [Fact]
    public void Python_TestFiles_AreThere() => Assert.NotEmpty(Tests);

    // Found by reading, so that listing the tests needs no Python.
    private static IEnumerable<string> MethodsOf(string path)
    {
        string type = "";
        foreach (string line in File.ReadLines(path))
        {
            if (ClassLine().Match(line) is { Success: true } found)
            {
                type = found.Groups[1].Value;
            }
            else if (MethodLine().Match(line) is { Success: true } method)
            {
                yield return $"{type}.{method.Groups[1].Value}";
            }
        }
    }

    [GeneratedRegex(@"^class (\w+)")]
    private static partial Regex ClassLine();

    [GeneratedRegex(@"^    def (test_\w+)")]
    private static partial Regex MethodLine();
}
