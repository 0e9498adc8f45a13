using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;
using CheckpointEngine.Package.Tests.Support;

namespace CheckpointEngine.Package.Tests;

/// <summary>Projects and users who have the NuGet packages and nothing else of ours.</summary>
public sealed class NuGetConsumerTests
{
    private static readonly string s_versionProperty = "-p:CheckpointEngineVersion=" + Artifacts.Version;

    [Fact]
    public async Task Core_InAProjectPublishedAheadOfTime_ServesAndJoinsBitForBit()
    {
        Tool.Need("objcopy");
        Tool.NeedCCompiler();
        await ServeAndJoinAsync("Core", "publish", "-r", "linux-x64");
    }

    // Http compiled ahead of time is what the command is; here it is inside somebody's ASP.NET application.
    [Fact]
    public Task Http_InAnAspNetApplication_ServesAndJoinsBitForBit() => ServeAndJoinAsync("Http", "build");

    [Fact]
    public async Task Cli_InstalledAsATool_TellsItsVersion()
    {
        _ = Artifacts.Package("CheckpointEngine.Cli");
        Tool.Need("dotnet");
        using var temp = new TempDirectory();
        string config = PackageFeed.WriteConfig(temp);

        await Tool.DotnetAsync(temp.Path, "tool", "install", "CheckpointEngine.Cli", "--version", Artifacts.Version, "--tool-path", temp["tools"], "--configfile", config);

        Assert.Equal($"checkpoint-engine {Artifacts.Version}\n", await Tool.RunAsync(temp["tools/checkpoint-engine"], temp.Path, "--version"));
    }

    [Fact]
    public async Task Native_InADotnetProject_BringsLibraryAndHeaders()
    {
        _ = Artifacts.Package("CheckpointEngine.Native");
        Tool.Need("dotnet");
        using var temp = new TempDirectory();
        PackageFeed.WriteConfig(temp);
        string project = temp.AddConsumer("Native");

        await Tool.DotnetAsync(project, "build", "-c", "Release", "-o", temp["out"], s_versionProperty);
        string includes = (await Tool.DotnetAsync(project, "msbuild", "-getProperty:CheckpointEngineIncludeDirectory")).Trim();
        string library = (await Tool.DotnetAsync(project, "msbuild", "-getProperty:CheckpointEngineLibrary")).Trim();

        Assert.True(File.Exists(temp["out/runtimes/linux-x64/native/libcheckpoint_engine.so"]));
        Assert.True(File.Exists(Path.Combine(includes, "checkpoint_engine.h")), includes);
        Assert.Equal(File.ReadAllBytes(Artifacts.Library), File.ReadAllBytes(library));
        Assert.Equal(Artifacts.Version + "\n", await Tool.RunAsync(temp["out/NativeConsumer"], temp.Path));
    }

    [Fact]
    public async Task Native_InAProjectThatIsNotDotnets_PutsTheLibraryIntoTheOutput()
    {
        string package = Artifacts.Package("CheckpointEngine.Native");
        Tool.Need("dotnet");
        using var temp = new TempDirectory();
        ZipFile.ExtractToDirectory(package, temp["unpacked"]);
        File.WriteAllText(temp["plain.proj"], $"""
            <Project>
              <PropertyGroup><OutDir>{temp["out"]}/</OutDir></PropertyGroup>
              <Target Name="Build" />
              <Import Project="unpacked/build/native/CheckpointEngine.Native.targets" />
            </Project>
            """);

        await Tool.DotnetAsync(temp.Path, "msbuild", "plain.proj");

        byte[] library = File.ReadAllBytes(Artifacts.Library);
        Assert.Equal(library, File.ReadAllBytes(temp["out/libcheckpoint_engine.so"]));
        Assert.Equal(library, File.ReadAllBytes(temp["out/libcheckpoint_engine.so.0"]));
    }

    private static async Task ServeAndJoinAsync(string consumer, params string[] dotnetCommand)
    {
        _ = Artifacts.Package("CheckpointEngine." + consumer);
        Tool.Need("dotnet");
        using var temp = new TempDirectory();
        PackageFeed.WriteConfig(temp);
        string project = temp.AddConsumer(consumer);
        byte[] tensor = new byte[10_007];
        new Random(20261123).NextBytes(tensor);
        WriteSafetensors(temp["small.safetensors"], "weight", tensor);

        string log = await Tool.DotnetAsync(project, [.. dotnetCommand, "-c", "Release", "-o", temp["out"], s_versionProperty, "--nologo", "-v", "quiet"]);
        string output = await Tool.RunAsync(temp[$"out/{consumer}Consumer"], temp.Path, temp["small.safetensors"], "weight");

        Assert.DoesNotMatch(@"\bwarning [A-Z]+[0-9]+", log);
        Assert.Equal($"verified=True {Convert.ToHexString(tensor)}\n", output);
    }

    private static void WriteSafetensors(string path, string name, byte[] tensor)
    {
        byte[] header = Encoding.UTF8.GetBytes($"{{\"{name}\":{{\"dtype\":\"U8\",\"shape\":[{tensor.Length}],\"data_offsets\":[0,{tensor.Length}]}}}}");
        byte[] length = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
        File.WriteAllBytes(path, [.. length, .. header, .. tensor]);
    }
}
