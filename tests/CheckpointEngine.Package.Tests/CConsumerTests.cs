using CheckpointEngine.Package.Tests.Support;

namespace CheckpointEngine.Package.Tests;

/// <summary>C programs that have the tarball, unpacked, moved, and nothing else of ours.</summary>
public sealed class CConsumerTests
{
    [Fact]
    public async Task Tarball_ThroughPkgConfig_CompilesAndRuns()
    {
        Tool.Need("tar", "pkg-config");
        string compiler = Tool.NeedCCompiler();
        using var temp = new TempDirectory();
        string prefix = await UnpackAndMoveAsync(temp), program = temp.AddConsumer("C");
        var where = new Dictionary<string, string?> { ["PKG_CONFIG_PATH"] = prefix + "/lib/pkgconfig", ["PKG_CONFIG_LIBDIR"] = null };

        string version = await Tool.RunAsync("pkg-config", program, where, "--modversion", "checkpoint-engine");
        string flags = await Tool.RunAsync("pkg-config", program, where, "--cflags", "--libs", "checkpoint-engine");
        await Tool.RunAsync(compiler, program, ["-Wall", "-Wextra", "-Werror", "main.c", "-o", "consumer", .. flags.Split((char[])[' ', '\n'], StringSplitOptions.RemoveEmptyEntries)]);
        string output = await Tool.RunAsync(program + "/consumer", program, new Dictionary<string, string?> { ["LD_LIBRARY_PATH"] = prefix + "/lib" });

        Assert.Equal(Artifacts.Version + "\n", version);
        Assert.Equal(Artifacts.Version + "\n", output);
    }

    [Fact]
    public async Task Tarball_ThroughCMake_CompilesAndRuns()
    {
        Tool.Need("tar", "cmake", "make");
        Tool.NeedCCompiler();
        using var temp = new TempDirectory();
        string prefix = await UnpackAndMoveAsync(temp), program = temp.AddConsumer("C");

        await Tool.RunAsync("cmake", program, "-G", "Unix Makefiles", "-B", "build", "-DCMAKE_PREFIX_PATH=" + prefix, "-DEXPECTED_VERSION=" + Artifacts.Version);
        await Tool.RunAsync("cmake", program, "--build", "build");
        string output = await Tool.RunAsync(program + "/build/consumer", program);

        Assert.Equal(Artifacts.Version + "\n", output);
    }

    [Fact]
    public async Task LibraryForArm64_UnderQemu_Runs()
    {
        string prefix = Artifacts.CrossLibraryPrefix;
        Tool.Need("aarch64-linux-gnu-gcc", "qemu-aarch64");
        using var temp = new TempDirectory();
        string program = temp.AddConsumer("C");

        await Tool.RunAsync("aarch64-linux-gnu-gcc", program, "-I", prefix + "/include", "main.c", "-o", "consumer", "-L", prefix + "/lib", "-lcheckpoint_engine");
        string output = await Tool.RunAsync("qemu-aarch64", program, "-L", "/usr/aarch64-linux-gnu", "-E", $"LD_LIBRARY_PATH={prefix}/lib", "consumer");

        Assert.Equal(Artifacts.Version + "\n", output);
    }

    private static async Task<string> UnpackAndMoveAsync(TempDirectory temp)
    {
        await Tool.RunAsync("tar", temp.Path, "-xzf", Artifacts.Tarball);
        Directory.Move(temp[Artifacts.TarballName], temp["moved"]);
        return temp["moved"];
    }
}
