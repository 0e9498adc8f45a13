using System.Text.Json;
using System.Text.Json.Nodes;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>
/// Our processes beside real Mooncake engines of several releases, over TCP: what one end holds the other reads, and one digest over all names, types,
/// shapes and bytes is the same at both. <c>./build.sh interop</c> runs them and prints the table.
/// </summary>
[Trait("Category", "Interop")]
public sealed class InteropTests(InteropTable table) : IClassFixture<InteropTable>
{
    // More than a descriptor of 1 MiB lists, which is what a Mooncake engine takes unless it is told otherwise.
    private const int ManyFiles = 17_000;
    private const string LongHost = "127.100.100.100";
    private const int Crowd = 8;

    public static TheoryData<string> Releases => [.. MooncakeRelease.Names];

    [Theory]
    [MemberData(nameof(Releases))]
    public Task Serve_ReadByMooncake_IsBitForBit(string release)
        => RunAsync(release, "our holder (tcp) -> Mooncake initiator", (mooncake, temp) => ReadByMooncakeAsync(mooncake, temp, []));

    [Theory]
    [MemberData(nameof(Releases))]
    public Task Serve_FromAPickleReadByCPythonAndMooncake_IsBitForBit(string release)
        => RunAsync(release, "our holder (tcp) -> pickle -> CPython -> Mooncake initiator", (mooncake, temp) => ReadByMooncakeAsync(mooncake, temp, [], throughPython: true));

    [Theory]
    [MemberData(nameof(Releases))]
    public Task ServeThroughItsLibrary_ReadByMooncake_IsBitForBit(string release)
        => RunAsync(release, "our holder (its library) -> Mooncake initiator", (mooncake, temp) => ReadByMooncakeAsync(mooncake, temp, Through(mooncake)), withLibrary: true);

    [Theory]
    [MemberData(nameof(Releases))]
    public Task Join_FromMooncake_IsBitForBit(string release)
        => RunAsync(release, "Mooncake holders (two ranks) -> CPython's pickle -> our joiner (tcp)", (mooncake, temp) => JoinFromMooncakeAsync(mooncake, temp, "--transport", "tcp"));

    [Theory]
    [MemberData(nameof(Releases))]
    public Task JoinThroughItsLibrary_FromMooncake_IsBitForBit(string release)
        => RunAsync(release, "Mooncake holders (two ranks) -> our joiner (its library)", (mooncake, temp) => JoinFromMooncakeAsync(mooncake, temp, Through(mooncake)), withLibrary: true);

    [Theory]
    [MemberData(nameof(Releases))]
    public Task JoinOverTcp_FromOurHolderThroughItsLibrary_IsVerified(string release)
        => RunAsync(release, "our holder (its library) -> our joiner (tcp)", (mooncake, temp) => JoinOursAsync(temp, Through(mooncake), ["--transport", "tcp"]), withLibrary: true);

    [Theory]
    [MemberData(nameof(Releases))]
    public Task JoinThroughItsLibrary_FromOurHolder_IsVerified(string release)
        => RunAsync(release, "our holder (tcp) -> our joiner (its library)", (mooncake, temp) => JoinOursAsync(temp, [], Through(mooncake)), withLibrary: true);

    [Theory]
    [MemberData(nameof(Releases))]
    public Task Join_ACrowdAtOnceFromOneMooncake_AllSucceed(string release)
        => RunAsync(release, $"one Mooncake holder -> {Crowd} of our joiners at once (tcp)", async (mooncake, temp) =>
        {
            Dictionary<string, Tensor> tensors = MakeWorld(temp);
            await using WorldOfMooncake world = await WorldOfMooncake.HoldAsync(mooncake, temp, [tensors]);
            Outcome[] outcomes = await Task.WhenAll(Enumerable.Range(0, Crowd).Select(_ =>
                RunCommandAsync("join", "--load-metas-file", world.Json, "--to", "null", "--transport", "tcp", "--json")));
            Assert.All(outcomes, outcome => outcome.Succeeded());
            return $"{Crowd} of {Crowd}";
        });

    [Theory]
    [MemberData(nameof(Releases))]
    public Task Serve_MoreFilesThanADescriptorLists_IsReadByMooncake(string release)
        => RunAsync(release, $"our holder of {ManyFiles:N0} files (tcp) -> Mooncake initiator", async (mooncake, temp) =>
        {
            string limit = File.ReadLines("/proc/self/limits").Single(line => line.StartsWith("Max open files", StringComparison.Ordinal)).Split(' ', StringSplitOptions.RemoveEmptyEntries)[4];
            Assert.SkipWhen(long.TryParse(limit, out long most) && most < ManyFiles + 1000, $"a process may have no more than {limit} files open");
            SmallCheckpoint.WriteFiles(temp["in"], ManyFiles);
            await using Holder holder = await Holder.StartAsync("serve", "--checkpoint", "m=" + temp["in"], "--listen", $"http://{LongHost}:0", "--json");
            Assert.StartsWith(LongHost, holder.P2pStoreAddress, StringComparison.Ordinal);
            JsonNode metas = await MetasAsync(holder);
            (string segment, ulong address, long bytes, JsonArray tensors) = UpstreamMetas.Buffers(metas).Last();
            var read = new Dictionary<string, Tensor>();
            UpstreamMetas.Unpack(tensors, await mooncake.ReadAsync(segment, address, bytes, temp["bytes"]), read);
            (string name, Tensor last) = read.Last();
            Assert.Equal(SmallCheckpoint.ReadFile(Path.Combine(temp["in"], $"part-{name[1..]}.safetensors"))[name], last);
            return $"{UpstreamMetas.Buffers(metas).Count():N0} buffers";
        });

    private static string[] Through(MooncakeRelease mooncake) => ["--transport", "mooncake", "--mooncake-library", mooncake.Library];

    private static Dictionary<string, Tensor> MakeWorld(TempDirectory temp)
    {
        SmallCheckpoint.WriteWorld(temp["in"]);
        return SmallCheckpoint.Read(temp["in"]);
    }

    private Task RunAsync(string release, string pair, Func<MooncakeRelease, TempDirectory, Task<string>> run, bool withLibrary = false)
        => table.RunAsync(release, pair, async () =>
        {
            MooncakeRelease mooncake = MooncakeRelease.Get(release, withLibrary);
            using var temp = new TempDirectory();
            return await run(mooncake, temp);
        });

    private static async Task<string> ReadByMooncakeAsync(MooncakeRelease mooncake, TempDirectory temp, string[] serving, bool throughPython = false)
    {
        string expected = SmallCheckpoint.Digest(MakeWorld(temp));
        await using Holder holder = await ServeAsync(temp, serving);
        JsonNode metas = await MetasAsync(holder);
        if (throughPython)
        {
            (await Engine.RunAsync("metas", "--metas-url", holder.MetasUrl, "--format", "pickle", "--output", temp["metas.pkl"])).Succeeded();
            metas = JsonNode.Parse(await PythonWorld.LoadAsync(temp["metas.pkl"]))!;
        }
        var read = new Dictionary<string, Tensor>();
        foreach ((string segment, ulong address, long bytes, JsonArray tensors) in UpstreamMetas.Buffers(metas))
        {
            UpstreamMetas.Unpack(tensors, await mooncake.ReadAsync(segment, address, bytes, temp["bytes"]), read);
        }
        Assert.Equal(expected, SmallCheckpoint.Digest(read));
        return Same(expected, read);
    }

    private static async Task<string> JoinFromMooncakeAsync(MooncakeRelease mooncake, TempDirectory temp, params string[] transport)
    {
        Dictionary<string, Tensor> tensors = MakeWorld(temp);
        Dictionary<string, Tensor>[] ranks =
        [
            tensors.Where(tensor => tensor.Key[0] == 'a').ToDictionary(), tensors.Where(tensor => tensor.Key[0] != 'a').ToDictionary(),
        ];
        await using WorldOfMooncake world = await WorldOfMooncake.HoldAsync(mooncake, temp, ranks);
        await PythonWorld.DumpAsync(world.Json, temp["metas.pkl"]);
        Outcome outcome = (await RunCommandAsync(["join", "--load-metas-file", temp["metas.pkl"], "--checkpoint-name", "from-python", "--to", "dir:" + temp["out"], "--json", .. transport])).Succeeded();
        using JsonDocument report = JsonDocument.Parse(outcome.Output);
        Assert.False(report.RootElement.GetProperty("verified").GetBoolean());       // a Mooncake owner has no digests
        Assert.Equal(transport[1], Assert.Single(report.RootElement.GetProperty("transports").EnumerateObject()).Name);
        Dictionary<string, Tensor> joined = SmallCheckpoint.Read(temp["out"]);
        Assert.Equal(SmallCheckpoint.Digest(tensors), SmallCheckpoint.Digest(joined));
        return Same(SmallCheckpoint.Digest(tensors), joined);
    }

    private static async Task<string> JoinOursAsync(TempDirectory temp, string[] serving, string[] joining)
    {
        string expected = SmallCheckpoint.Digest(MakeWorld(temp));
        await using Holder holder = await ServeAsync(temp, serving);
        (await RunCommandAsync(["join", "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["out"], "--require-verify", "--json", .. joining])).Succeeded();
        Dictionary<string, Tensor> joined = SmallCheckpoint.Read(temp["out"]);
        Assert.Equal(expected, SmallCheckpoint.Digest(joined));
        return Same(expected, joined);
    }

    private static string Same(string digest, Dictionary<string, Tensor> tensors)
        => $"{tensors.Count} tensors, {tensors.Values.Sum(tensor => (long)tensor.Bytes.Length):N0} bytes, sha256 {digest[..12]}";

    private static Task<Holder> ServeAsync(TempDirectory temp, string[] more)
        => Holder.StartAsync(MooncakeRelease.Tcp, ["serve", "--checkpoint", "m=" + temp["in"], "--listen", "http://127.0.0.1:0", "--json", .. more]);

    private static async Task<JsonNode> MetasAsync(Holder holder)
        => JsonNode.Parse((await Engine.RunAsync("metas", "--metas-url", holder.MetasUrl, "--format", "json")).Succeeded().Output)!;

    private static async Task<Outcome> RunCommandAsync(params string[] arguments)
    {
        await using Engine engine = Engine.Start(MooncakeRelease.Tcp, arguments);
        return await engine.EndAsync();
    }

    /// <summary>Ranks whose memory a real Mooncake holds, and their metas as JSON.</summary>
    private sealed class WorldOfMooncake(string json, List<ToolProcess> processes) : IAsyncDisposable
    {
        public string Json => json;

        public static async Task<WorldOfMooncake> HoldAsync(MooncakeRelease mooncake, TempDirectory temp, Dictionary<string, Tensor>[] ranks)
        {
            var world = new WorldOfMooncake(temp["metas.json"], []);
            var metas = new JsonObject();
            try
            {
                for (int rank = 0; rank < ranks.Length; rank++)
                {
                    (byte[] buffer, JsonArray tensors) = UpstreamMetas.Pack(ranks[rank]);
                    await File.WriteAllBytesAsync(temp[$"rank-{rank}"], buffer);
                    (ToolProcess process, string segment, ulong address) = await mooncake.HoldAsync(temp[$"rank-{rank}"]);
                    world.Processes.Add(process);
                    metas[$"{rank}"] = UpstreamMetas.Owner(segment, address, tensors, buffer.Length);
                }
                await File.WriteAllTextAsync(world.Json, metas.ToJsonString());
                return world;
            }
            catch
            {
                await world.DisposeAsync();
                throw;
            }
        }

        private List<ToolProcess> Processes => processes;

        public async ValueTask DisposeAsync()
        {
            foreach (ToolProcess process in processes)
            {
                await process.DisposeAsync();
            }
        }
    }
}
