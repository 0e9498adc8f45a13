using System.Globalization;
using System.Text.RegularExpressions;
using CheckpointEngine.Package.Tests.Support;

namespace CheckpointEngine.Package.Tests;

/// <summary>The unit that ships: read by systemd's own checkers, and run by a systemd in the guest of tests/rdma-lab, where nothing of this host can be touched.</summary>
public sealed partial class SystemdTests
{
    private const double MostExposure = 3;      // systemd calls up to 4 "OK", and a service that guards nothing 9.6

    private static string Unit => Path.Combine(Artifacts.Repository, "deploy/systemd/checkpoint-engine.service");

    [Fact]
    public async Task Unit_IsUnderstoodWithoutAWord()
    {
        Tool.Need("systemd-analyze");
        using var temp = new TempDirectory();
        string unit = Path.Combine(temp.Path, "checkpoint-engine.service");
        await File.WriteAllTextAsync(unit, (await File.ReadAllTextAsync(Unit, TestContext.Current.CancellationToken))
            .Replace("/opt/checkpoint-engine/bin/checkpoint-engine", Artifacts.Command, StringComparison.Ordinal), TestContext.Current.CancellationToken);

        // Whatever it has to say it says on stderr, and only some of it is a failure for it.
        string said = await Tool.RunAsync("sh", temp.Path, "-c", $"systemd-analyze verify --recursive-errors=no --man=no '{unit}' 2>&1");

        Assert.Equal("", said);
    }

    [Fact]
    public async Task Unit_IsGuarded()
    {
        Tool.Need("systemd-analyze");
        string report = await Tool.RunAsync("systemd-analyze", Path.GetTempPath(), "security", "--offline=true", "--no-pager", "--threshold=100", Unit);

        Match exposure = Exposure().Match(report);
        Assert.True(exposure.Success, report);
        Assert.True(double.Parse(exposure.Groups[1].Value, CultureInfo.InvariantCulture) <= MostExposure, report);
    }

    [Fact]
    public async Task Unit_UnderSystemd_StartsReloadsIsRestartedAndDrains()
    {
        Assert.SkipUnless(Environment.GetEnvironmentVariable("LAB") == "1", "LAB=1 boots the guest that this runs a systemd in");
        _ = Artifacts.Command;
        string lab = Path.Combine(Artifacts.Repository, "tests/rdma-lab/lab");
        string missing = await Tool.RunAsync(lab, Artifacts.Repository, "--missing");
        Assert.SkipUnless(missing.Length == 0, "the guest needs packages that are not installed: " + missing.ReplaceLineEndings(" "));
        Tool.Need("systemd-analyze", "systemd-sysusers");

        string told = await Tool.RunAsync(lab, Artifacts.Repository, "--mem", "2G", "--timeout", "280", "--",
            Path.Combine(Artifacts.Repository, "tests/CheckpointEngine.Package.Tests/systemd/guest"), Artifacts.Repository);

        Assert.Equal(["started", "guarded", "read", "reloaded", "killed", "stopped", "held without a file", "all is well"], told.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split(':')[0]));
    }

    [GeneratedRegex(@"Overall exposure level for \S+: ([0-9.]+)")]
    private static partial Regex Exposure();
}
