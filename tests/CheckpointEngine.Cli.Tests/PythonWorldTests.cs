using System.Text.Json.Nodes;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>
/// A world of Python's checkpoint-engine told and joined by its own means: pickles that CPython makes and loads under upstream's class names, with the real
/// torch where it is there, HTTP that Python serves, and the options of upstream's join command as it spells them.
/// </summary>
public sealed class PythonWorldTests
{
    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    public async Task Join_PickleOfCPython_IsBitForBit(int protocol)
    {
        using var temp = new TempDirectory();
        await using Holder holder = await ServeAsync(temp);
        await WriteMetasAsync(holder, temp["metas.json"]);
        await PythonWorld.DumpAsync(temp["metas.json"], temp["metas.pkl"], protocol);

        await JoinAsync(temp, "--load-metas-file", temp["metas.pkl"], "--checkpoint-name", "join-checkpoint");
    }

    [Theory]
    [InlineData("/v1/metas")]
    [InlineData("/v1/checkpoints/any/metas")]
    public async Task Join_MetasThatPythonServes_IsBitForBit(string path)
    {
        using var temp = new TempDirectory();
        await using Holder holder = await ServeAsync(temp);
        await WriteMetasAsync(holder, temp["metas.json"]);
        await using ToolProcess python = PythonWorld.Serve(temp["metas.json"]);

        await JoinAsync(temp, $"--metas-url=http://127.0.0.1:{await python.ReadLineAsync()}{path}", "--checkpoint-name=mine");
    }

    [Fact]
    public async Task Metas_OfOurs_LoadInCPythonWithTorch()
    {
        using var temp = new TempDirectory();
        await using Holder holder = await ServeAsync(temp);
        await WriteMetasAsync(holder, temp["metas.json"]);
        (await Engine.RunAsync("metas", "--metas-url", holder.MetasUrl, "--format", "pickle", "--output", temp["metas.pkl"])).Succeeded();
        Assert.SkipUnless(await PythonWorld.HasTorchAsync(), "there is no torch for Python (python3-torch); the stand-in is not what this test is about");

        JsonNode loaded = JsonNode.Parse(await PythonWorld.LoadAsync(temp["metas.pkl"]))!;

        JsonNode told = JsonNode.Parse(File.ReadAllText(temp["metas.json"]))!;
        Assert.Equal(Describe(told), Describe(loaded));
    }

    // What upstream knows of metas; ours have more in JSON.
    private static List<string> Describe(JsonNode metas)
        => [.. UpstreamMetas.Buffers(metas).SelectMany(buffer => buffer.Metas.Select(meta =>
            $"{buffer.Segment} {buffer.Address} {buffer.Bytes} {meta!["name"]} {meta["dtype"]} {meta["shape"]!.ToJsonString()} {meta["aligned_size"]}"))];

    private static Task<Holder> ServeAsync(TempDirectory temp)
    {
        SmallCheckpoint.WriteWorld(temp["in"]);
        return Holder.ServeAsync(temp["in"]);
    }

    private static async Task WriteMetasAsync(Holder holder, string file)
        => (await Engine.RunAsync("metas", "--metas-url", holder.MetasUrl, "--format", "json", "--output", file)).Succeeded();

    private static async Task JoinAsync(TempDirectory temp, params string[] source)
    {
        (await Engine.RunAsync(["join", .. source, "--to", "dir:" + temp["out"], "--json"])).Succeeded();
        Assert.Equal(SmallCheckpoint.Digest(SmallCheckpoint.Read(temp["in"])), SmallCheckpoint.Digest(SmallCheckpoint.Read(temp["out"])));
    }
}
