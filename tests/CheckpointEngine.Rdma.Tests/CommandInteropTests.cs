using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using CheckpointEngine.Rdma.Tests.Support;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>The command over RDMA: with itself, and with the independent peer at either end.</summary>
public sealed class CommandInteropTests
{
    [LabTheory]
    [InlineData("map")]
    [InlineData("memfd")]
    [InlineData("anon")]
    public async Task Join_BetweenDevices_IsBitForBit(string hold)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync([0], temp["model"], "--hold", hold, "--transport", "rdma");

        JsonElement report = (await JoinAsync([1], "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded().Json();

        AssertSame(temp["model"], temp["copy"]);
        Assert.True(report.GetProperty("verified").GetBoolean());
        Assert.Equal(["rdma"], report.GetProperty("transports").EnumerateObject().Select(plane => plane.Name));
    }

    [LabFact]
    public async Task Doctor_DevicesNamed_UsesThoseAloneInThatOrder()
    {
        JsonElement report = (await ChildProcess.RunAsync(Repository.Command, "doctor", "--devices", RdmaLab.Names([2, 1]), "--json")).Succeeded().Json();

        JsonElement devices = report.GetProperty("rdma").GetProperty("verbs").GetProperty("devices");
        Assert.Equal([RdmaLab.Found[2], RdmaLab.Found[1]],
            devices.EnumerateArray().Where(device => device.GetProperty("used").GetBoolean()).Select(device => device.GetProperty("name").GetString()));
    }

    [LabFact]
    public async Task Plan_DevicesNamed_AsksOverThoseAlone()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync([0], temp["model"], "--transport", "rdma", "--hold", "anon");
        using NetworkInterface down = new NetworkInterface(3).Down();

        JsonElement owner = await PlanAsync(2);
        JsonElement other = await PlanAsync(3);

        Assert.Equal("rdma", owner.GetProperty("transport").GetString());
        Assert.Equal("tcp", other.GetProperty("transport").GetString());
        Assert.Contains(RdmaLab.Found[3], other.GetProperty("reason").GetString(), StringComparison.Ordinal);

        async Task<JsonElement> PlanAsync(int device)
            => (await ChildProcess.RunAsync(Repository.Command, "plan", "--metas-url", holder.MetasUrl, "--devices", RdmaLab.Names([device]), "--json")).Succeeded().Json()
                .GetProperty("owners")[0];
    }

    [LabTheory]
    [InlineData(new[] { 2 }, new[] { 2 })]
    [InlineData(new[] { 0, 1 }, new[] { 2, 3 })]
    [InlineData(new[] { 0, 1, 2, 3 }, new[] { 0, 1, 2, 3 })]
    [InlineData(new[] { 0 }, new[] { 1, 2 })]
    public async Task Join_ManyDevices_UsesThem(int[] holding, int[] joining)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], 64 << 20);     // no device is through before the last one has begun
        await using Holder holder = await Holder.ServeAsync(holding, temp["model"]);

        JsonElement report = (await JoinAsync(joining, "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded().Json();

        AssertSame(temp["model"], temp["copy"]);
        string[] pairs = [.. report.GetProperty("pairs").EnumerateObject().Select(pair => pair.Name)];
        Assert.Equal(joining.Select(index => RdmaLab.Found[index]), pairs.Select(pair => pair.Split('-')[0]).Distinct().Order(StringComparer.Ordinal));
        Assert.Equal(holding.Select(index => RdmaLab.Found[index]), pairs.Select(pair => pair.Split('-')[1]).Distinct().Order(StringComparer.Ordinal));
    }

    [LabTheory]
    [InlineData]
    [InlineData("--no-ready-ack")]
    [InlineData("--no-local-gid", "--no-ready-ack")]
    public async Task Serve_ReadByThePeer_GivesItsBytes(params string[] release)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync([0], temp["model"]);

        Dictionary<string, Tensor> expected = SmallCheckpoint.Read(temp["model"]);
        int compared = 0;
        foreach (JsonNode buffer in Buffers(await MetasAsync(holder)))
        {
            (await Peer.ReadAsync([1], holder.P2pStoreAddress, (ulong)buffer["ptr"]!, (long)buffer["size"]!, ["--out", temp["bytes"], .. release])).Succeeded();
            byte[] content = File.ReadAllBytes(temp["bytes"]);
            int offset = 0;
            foreach (JsonNode? tensor in buffer["metas"]!.AsArray())
            {
                if (expected.TryGetValue((string)tensor!["name"]!, out Tensor? known))
                {
                    Assert.Equal(known.Bytes, content.AsSpan(offset, known.Bytes.Length));
                    compared++;
                }
                offset += (int)tensor["aligned_size"]!;
            }
        }
        Assert.Equal(expected.Count, compared);
    }

    [LabTheory]
    [InlineData]
    [InlineData("--no-ready-ack")]
    [InlineData("--no-local-gid", "--no-ready-ack")]
    public async Task Join_FromThePeer_IsBitForBit(params string[] release)
    {
        using var temp = new TempDirectory();
        string metas = await MoveToPeerAsync(temp, 5_000_001);
        await using Peer peer = await Peer.HoldAsync([0], ["--file", temp["bytes"], .. release]);
        PointAt(peer, metas);

        (await JoinAsync([1], "--load-metas-file", metas, "--to", "dir:" + temp["copy"])).Succeeded();

        AssertSame(temp["model"], temp["copy"]);
    }

    [LabTheory]
    [InlineData("")]
    [InlineData("not today")]
    public async Task Join_PeerRefuses_FailsAndLeavesNothing(string reason)
    {
        using var temp = new TempDirectory();
        string metas = await MoveToPeerAsync(temp, 100_000);
        await using Peer peer = await Peer.HoldAsync([0], "--file", temp["bytes"], "--refuse", reason);
        PointAt(peer, metas);

        Outcome outcome = await JoinAsync([1], "--load-metas-file", metas, "--to", "dir:" + temp["copy"]);

        Assert.Equal(1, outcome.ExitCode);
        Assert.Contains(reason, outcome.Errors, StringComparison.Ordinal);
        Assert.False(Directory.Exists(temp["copy"]));
    }

    [LabFact]
    public async Task Serve_WrongKey_FailsThatReaderOnly()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], 1 << 20);
        await using Holder holder = await Holder.ServeAsync([0], temp["model"]);
        JsonNode buffer = Buffers(await MetasAsync(holder)).First();

        Outcome wrong = await Peer.ReadAsync([1], holder.P2pStoreAddress, (ulong)buffer["ptr"]!, (long)buffer["size"]!, "--wrong-rkey");
        (await JoinAsync([2], "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded();

        Assert.Equal(10, wrong.Json().GetProperty("status").GetInt32());    // IBV_WC_REM_ACCESS_ERR
        AssertSame(temp["model"], temp["copy"]);
    }

    [LabFact]
    public async Task Serve_PeersThatComeAndGo_StaysReadable()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], 1 << 20);
        await using Holder holder = await Holder.ServeAsync([0], temp["model"]);

        (await Peer.ConnectAsync([1], holder.P2pStoreAddress, times: 100)).Succeeded();
        (await JoinAsync([2], "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["copy"])).Succeeded();

        AssertSame(temp["model"], temp["copy"]);
    }

    // A checkpoint of one tensor whose bytes the peer can hold, and metas for it with the engine's own digests.
    private static async Task<string> MoveToPeerAsync(TempDirectory temp, int bytes)
    {
        SmallCheckpoint.WriteSingle(temp["model"], bytes);
        await using Holder holder = await Holder.ServeAsync([0], temp["model"], "--hold", "anon");
        JsonNode metas = await MetasAsync(holder);
        JsonNode buffer = Assert.Single(Buffers(metas));
        (await Peer.ReadAsync([1], holder.P2pStoreAddress, (ulong)buffer["ptr"]!, (long)buffer["size"]!, "--out", temp["bytes"])).Succeeded();
        File.WriteAllText(temp["metas.json"], metas.ToJsonString());
        return temp["metas.json"];
    }

    private static void PointAt(Peer peer, string metas)
    {
        JsonNode document = JsonNode.Parse(File.ReadAllText(metas))!;
        Assert.Single(Owners(document))["p2p_store_addr"] = peer.Segment;
        Assert.Single(Buffers(document))["ptr"] = peer.Address;
        File.WriteAllText(metas, document.ToJsonString());
    }

    private static async Task<JsonNode> MetasAsync(Holder holder)
        => JsonNode.Parse((await ChildProcess.RunAsync(Repository.Command, "metas", "--metas-url", holder.MetasUrl, "--format", "json")).Succeeded().Output)!;

    private static IEnumerable<JsonNode> Owners(JsonNode metas) => metas.AsObject().Select(owner => owner.Value!);

    private static IEnumerable<JsonNode> Buffers(JsonNode metas)
        => Owners(metas).SelectMany(owner => owner["memory_buffer_metas_list"]!.AsArray()).Select(buffer => buffer!);

    private static Task<Outcome> JoinAsync(int[] devices, params string[] more)
        => ChildProcess.RunAsync(Repository.Command, ["join", "--transport", "rdma", "--devices", RdmaLab.Names(devices), "--require-verify", "--json", .. more]);

    private static void AssertSame(string model, string copy)
    {
        Dictionary<string, Tensor> expected = SmallCheckpoint.Read(model);
        Dictionary<string, Tensor> actual = SmallCheckpoint.Read(copy);
        Assert.Equal(expected.Keys.Order(StringComparer.Ordinal), actual.Keys.Order(StringComparer.Ordinal));
        Assert.All(expected, tensor => Assert.True(tensor.Value.Equals(actual[tensor.Key]), $"{tensor.Key.ToString(CultureInfo.InvariantCulture)} differs"));
    }
}
