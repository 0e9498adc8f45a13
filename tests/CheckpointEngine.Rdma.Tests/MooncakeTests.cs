using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using CheckpointEngine.Rdma.Tests.Support;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>A real Mooncake Transfer Engine at the other end, where <c>CHECKPOINT_ENGINE_MOONCAKE_PEER</c> names a program that was built upon its C API.</summary>
/// <remarks>
/// The program: <c>hold --protocol rdma --device D --host ADDRESS --size N --seed S</c> prints a line of JSON with <c>segment</c> and <c>address</c> and stays
/// until its stdin ends; <c>read … --segment HOST:PORT --address A --length N --seed S</c> reads and compares, exit 0 when all is right;
/// <c>pattern --size N --seed S</c> writes the bytes that both mean.
/// </remarks>
public sealed class MooncakeTests
{
    private const int Bytes = 16 << 20;
    private const string Variable = "CHECKPOINT_ENGINE_MOONCAKE_PEER";
    private static readonly string? s_peer = Environment.GetEnvironmentVariable(Variable);

    [LabFact]
    public async Task Serve_ReadByMooncake_GivesItsBytes()
    {
        using TempDirectory temp = await PatternAsync();
        await using Holder holder = await Holder.ServeAsync([0], temp["model.safetensors"], "--hold", "anon", "--transport", "rdma");
        JsonNode buffer = (await MetasAsync(holder.MetasUrl))["memory_buffer_metas_list"]![0]!;

        (await ChildProcess.RunAsync(s_peer!, "read", "--protocol", "rdma", "--device", RdmaLab.Found[1], "--gid-index", "1", "--host", RdmaLab.Address(1),
            "--segment", holder.P2pStoreAddress, "--address", buffer["ptr"]!.ToString(), "--length", Text(Bytes), "--seed", "5")).Succeeded();
    }

    [LabFact]
    public async Task Join_FromMooncake_IsBitForBit()
    {
        using TempDirectory temp = await PatternAsync();
        JsonObject metas;
        await using (Holder holder = await Holder.ServeAsync([0], temp["model.safetensors"], "--hold", "anon", "--transport", "rdma"))
        {
            metas = new JsonObject { ["0"] = (await MetasAsync(holder.MetasUrl)).DeepClone() };       // with the digests of the same bytes
        }
        await using ChildProcess peer = ChildProcess.Start(s_peer!, "hold", "--protocol", "rdma", "--device", RdmaLab.Found[1], "--gid-index", "1",
            "--host", RdmaLab.Address(1), "--size", Text(Bytes), "--seed", "5");
        JsonElement held = await peer.WaitForJsonAsync("{\"segment\":");
        metas["0"]!["p2p_store_addr"] = held.GetProperty("segment").GetString();
        metas["0"]!["memory_buffer_metas_list"]![0]!["ptr"] = held.GetProperty("address").GetUInt64();
        File.WriteAllText(temp["metas.json"], metas.ToJsonString());

        Outcome outcome = await ChildProcess.RunAsync(Repository.Command, "join", "--load-metas-file", temp["metas.json"], "--to", "null", "--transport", "rdma",
            "--devices", RdmaLab.Found[0], "--require-verify", "--json");

        Assert.True(outcome.Succeeded().Json().GetProperty("verified").GetBoolean());
        peer.CloseInput();
    }

    private static async Task<TempDirectory> PatternAsync()
    {
        Assert.SkipWhen(s_peer is null, $"{Variable} names no program built upon Mooncake's C API");
        var temp = new TempDirectory();
        string header = $"{{\"t\":{{\"dtype\":\"U8\",\"shape\":[{Text(Bytes)}],\"data_offsets\":[0,{Text(Bytes)}]}}}}".PadRight(96);
        await using FileStream file = File.Create(temp["model.safetensors"]);
        file.Write(BitConverter.GetBytes((long)header.Length));
        file.Write(System.Text.Encoding.ASCII.GetBytes(header));
        using var pattern = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo(s_peer, ["pattern", "--size", Text(Bytes), "--seed", "5"]) { RedirectStandardOutput = true })!;
        await pattern.StandardOutput.BaseStream.CopyToAsync(file);
        await pattern.WaitForExitAsync();
        Assert.Equal(0, pattern.ExitCode);
        return temp;
    }

    private static async Task<JsonNode> MetasAsync(string url)
        => JsonNode.Parse((await ChildProcess.RunAsync(Repository.Command, "metas", "--metas-url", url, "--format", "json")).Succeeded().Output)!.AsObject().First().Value!;

    private static string Text(int number) => number.ToString(CultureInfo.InvariantCulture);
}
