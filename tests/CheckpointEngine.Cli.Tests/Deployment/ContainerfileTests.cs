using System.Diagnostics;
using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests.Deployment;

/// <summary>What the image is made with. It is not built here: that takes a registry; docs/operations.md says how it was.</summary>
public sealed class ContainerfileTests
{
    private static readonly (string Name, string Arguments)[] s_instructions = Read();

    [Fact]
    public void Image_IsOfThisVersionAndRunsTheCommandAsNobody()
    {
        Assert.Equal($"VERSION={Deploy.Version}", One("ARG"));
        Assert.Equal("10001:10001", One("USER"));
        Assert.Equal("SIGTERM", One("STOPSIGNAL"));
        Assert.Equal("19700", One("EXPOSE"));
        Assert.Equal(["checkpoint-engine"], JsonSerializer.Deserialize<string[]>(One("ENTRYPOINT"))!);
        Assert.Equal(["unpacked", ""], s_instructions.Where(instruction => instruction.Name == "FROM").Select(from => from.Arguments.Contains(" AS ", StringComparison.Ordinal) ? from.Arguments.Split(" AS ")[1] : ""));
        Assert.All(s_instructions.Where(instruction => instruction.Name == "FROM"), from => Assert.StartsWith("docker.io/library/debian:12-slim", from.Arguments, StringComparison.Ordinal));
    }

    [Fact]
    public void Image_RunsItsInstructionsInTheRightOrder()
    {
        List<string> names = [.. s_instructions.Select(instruction => instruction.Name)];
        Assert.True(names.LastIndexOf("RUN") < names.IndexOf("USER"));       // installing takes root
        Assert.Equal("FROM", names[0]);
        string install = s_instructions.Single(instruction => instruction.Name == "RUN" && instruction.Arguments.Contains("apt-get install", StringComparison.Ordinal)).Arguments;
        Assert.All(["ca-certificates", "ibverbs-providers", "libibverbs1", "libssl3", "libzmq5"], package => Assert.Contains(" " + package, install, StringComparison.Ordinal));
        Assert.Contains("rm -rf /var/lib/apt/lists", install, StringComparison.Ordinal);
    }

    [Fact]
    public async Task HealthCheck_OfAHolder_IsItsReadiness()
    {
        string[] command = JsonSerializer.Deserialize<string[]>(One("HEALTHCHECK").Split(" CMD ", 2)[1])!;
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder ready = await Holder.ServeAsync(temp["model"]);
        await using Holder empty = await Holder.StartAsync("serve", "--allow-path", temp.Path, "--listen", "http://127.0.0.1:0", "--json");

        Assert.Equal((0, 1), (await CheckAsync(ready), await CheckAsync(empty)));

        async Task<int> CheckAsync(Holder holder)
        {
            string[] here = [.. command.Select(word => word.Replace("19700", new Uri(holder.Http).Port.ToString(), StringComparison.Ordinal))];
            using Process check = Process.Start(here[0], here[1..]);
            await check.WaitForExitAsync(TestContext.Current.CancellationToken).WaitAsync(Engine.Patience);
            return check.ExitCode;
        }
    }

    private static string One(string name) => s_instructions.Single(instruction => instruction.Name == name).Arguments;

    // Lines that end in a backslash go on; comments stand alone.
    private static (string Name, string Arguments)[] Read()
    {
        string joined = string.Join('\n', Deploy.Text("container/Containerfile").Split('\n').Where(line => !line.StartsWith('#'))).Replace("\\\n", " ", StringComparison.Ordinal);
        return [.. joined.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split(' ', 2)).Select(words => (words[0], words[1].Trim()))];
    }
}
