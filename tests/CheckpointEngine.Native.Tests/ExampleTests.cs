using System.Text.Json;
using System.Text.RegularExpressions;
using CheckpointEngine.Native.Tests.Support;

namespace CheckpointEngine.Native.Tests;

/// <summary>The examples, built by the very line in their head.</summary>
public sealed partial class ExampleTests
{
    [Fact]
    public async Task ServeAndJoin_TwoProcesses_ListsWhatArrived()
    {
        using var temp = new TempDirectory();
        string program = await BuildAsync(temp, "examples/c/serve_and_join.c");
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Child server = Child.Start(program, "serve", temp["model"]);
        string url = await server.ReadLineAsync();

        string output = (await Child.RunAsync(program, "join", url)).Succeeded().Output;

        Assert.Contains("model.embed_tokens.weight\n", output, StringComparison.Ordinal);
        Assert.Matches("7 tensors, [0-9]+ bytes in [0-9.]+ s, every byte verified\n$", output);
        (await server.EndAsync()).Succeeded();
        Assert.NotEqual("", (await Child.RunAsync(program, "join", url)).EndedWith(1).Errors);
        (await Child.RunAsync(program)).EndedWith(2);
    }

    [Fact]
    public async Task Dlopen_LibraryThereOrNot_WorksOrSaysSo()
    {
        using var temp = new TempDirectory();
        string program = await BuildAsync(temp, "examples/c/dlopen.c");
        SmallCheckpoint.WriteSharded(temp["model"]);

        string output = (await Child.RunAsync(program, Repository.Library, temp["model"])).Succeeded().Output;

        Assert.Contains("lm_head.weight\n", output, StringComparison.Ordinal);
        Assert.NotEqual("", (await Child.RunAsync(program, Repository.Library, temp["not-there"])).EndedWith(1).Errors);
        Assert.NotEqual("", (await Child.RunAsync(program, temp["not-there.so"], temp["model"])).EndedWith(3).Errors);
        (await Child.RunAsync(program)).EndedWith(2);
    }

    [Fact]
    public async Task OwnLayout_ModelWithQkv_FusesThemAndSumsUp()
    {
        using var temp = new TempDirectory();
        string program = await BuildAsync(temp, "examples/cpp/own_layout.cpp");
        byte[] file = new byte[4 * 1024];
        new Random(1).NextBytes(file);
        WriteModel(temp["model.safetensors"], file, ["layers.0.q_proj.weight", "layers.0.k_proj.weight", "layers.0.v_proj.weight", "norm.weight"]);
        await using Child server = Child.Start(Repository.Command, "serve", "--checkpoint", "m=" + temp["model.safetensors"], "--listen", "http://127.0.0.1:0", "--json");
        using JsonDocument ready = JsonDocument.Parse(await server.ReadLineAsync());
        string url = ready.RootElement.GetProperty("http").GetString() + "/v1/metas";

        string output = (await Child.RunAsync(program, url)).Succeeded().Output;

        // norm comes first in the arena, then q, k and v below one another.
        Assert.Contains("layers.0.qkv.weight: 3072 bytes of U8 at 1024\n", output, StringComparison.Ordinal);
        Assert.Contains($"checksum {Checksum([.. file[3072..], .. file[..3072]]):x16}, 4096 bytes at ", output, StringComparison.Ordinal);

        WriteModel(temp["torn.safetensors"], file, ["layers.0.q_proj.weight", "layers.0.k_proj.weight", "mlp.weight", "norm.weight"]);
        await using Child torn = Child.Start(Repository.Command, "serve", "--checkpoint", "m=" + temp["torn.safetensors"], "--listen", "http://127.0.0.1:0", "--json");
        using JsonDocument tornReady = JsonDocument.Parse(await torn.ReadLineAsync());
        Assert.Contains("lacks one of q, k and v", (await Child.RunAsync(program, tornReady.RootElement.GetProperty("http").GetString() + "/v1/metas")).EndedWith(3).Errors, StringComparison.Ordinal);
        Assert.NotEqual("", (await Child.RunAsync(program, url + "?checkpoint=nobody")).EndedWith(1).Errors);
        (await Child.RunAsync(program)).EndedWith(2);
    }

    [Fact]
    public void Readme_ListsEveryExample()
    {
        string readme = File.ReadAllText(Path.Combine(Repository.Root, "examples/README.md"));
        string examples = Path.Combine(Repository.Root, "examples");
        Assert.All(Directory.GetFiles(examples, "*.c*", SearchOption.AllDirectories), file => Assert.Contains($"]({Path.GetRelativePath(examples, file)})", readme, StringComparison.Ordinal));
    }

    /// <summary>Builds in a directory that looks like the repository's root; returns the program.</summary>
    private static async Task<string> BuildAsync(TempDirectory temp, string source)
    {
        Repository.NeedArtifacts();
        string line = CommandLine().Match(File.ReadAllText(Path.Combine(Repository.Root, source))).Groups[1].Value;
        Repository.NeedTool(line.Split(' ')[0]);
        Directory.CreateSymbolicLink(temp["artifacts"], Path.Combine(Repository.Root, "artifacts"));
        Directory.CreateSymbolicLink(temp["examples"], Path.Combine(Repository.Root, "examples"));
        (await Child.RunAsync("/bin/sh", "-c", $"cd '{temp.Path}' && {line}")).Succeeded();
        return temp[Path.GetFileNameWithoutExtension(source)];
    }

    private static void WriteModel(string path, byte[] data, string[] names)
    {
        int size = data.Length / names.Length;
        string header = "{" + string.Join(',', names.Select((name, i) => $"\"{name}\":{{\"dtype\":\"U8\",\"shape\":[{size / 32},32],\"data_offsets\":[{i * size},{(i + 1) * size}]}}")) + "}";
        header = header.PadRight((header.Length + 7) / 8 * 8);
        File.WriteAllBytes(path, [.. BitConverter.GetBytes((ulong)header.Length), .. System.Text.Encoding.ASCII.GetBytes(header), .. data]);
    }

    private static ulong Checksum(byte[] bytes)
    {
        ulong sum = 14695981039346656037;
        for (int i = 0; i < bytes.Length; i += 8)
        {
            sum = (sum ^ BitConverter.ToUInt64(bytes, i)) * 1099511628211;
        }
        return sum;
    }

    [GeneratedRegex(@"^(?: \*|//)     ?(c(?:c|\+\+) .*)$", RegexOptions.Multiline)]
    private static partial Regex CommandLine();
}
