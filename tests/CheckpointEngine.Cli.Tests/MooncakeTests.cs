using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>
/// <c>--transport mooncake</c>: what is said without the library; and with a real one, where <c>CHECKPOINT_ENGINE_MOONCAKE_LIBRARY</c> names it. Real
/// Mooncake peers are there where <c>CHECKPOINT_ENGINE_MOONCAKE_PEER</c> names the program that tests/CheckpointEngine.Rdma.Tests describes.
/// </summary>
public sealed class MooncakeTests
{
    private const string LibraryVariable = "CHECKPOINT_ENGINE_MOONCAKE_LIBRARY";
    private const string PeerVariable = "CHECKPOINT_ENGINE_MOONCAKE_PEER";
    private static readonly string? s_peer = Environment.GetEnvironmentVariable(PeerVariable);

    // Between two processes of one host; devices have tests of their own.
    private static readonly Dictionary<string, string> s_tcp = new() { ["MC_FORCE_TCP"] = "1" };

    private static void NeedLibrary() => Assert.SkipWhen(Environment.GetEnvironmentVariable(LibraryVariable) is not { Length: > 0 },
        $"{LibraryVariable} names no libtransfer_engine.so of Mooncake");

    private static Task<Holder> ServeAsync(string directory, params string[] more)
        => Holder.StartAsync(s_tcp, ["serve", "--checkpoint", "m=" + directory, "--listen", "http://127.0.0.1:0", "--json", .. more]);

    private static async Task<Outcome> RunAsync(params string[] arguments)
    {
        await using Engine engine = Engine.Start(s_tcp, arguments);
        return await engine.EndAsync();
    }

    private static async Task<JsonElement> JoinAsync(TempDirectory temp, Holder holder, string transport)
    {
        Outcome outcome = (await RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "dir:" + temp["out"], "--transport", transport, "--require-verify", "--json")).Succeeded();
        Assert.Equal(SmallCheckpoint.Read(temp["in"]), SmallCheckpoint.Read(temp["out"]));
        using JsonDocument report = JsonDocument.Parse(outcome.Output);
        Assert.True(report.RootElement.GetProperty("verified").GetBoolean());
        Assert.Equal(transport, Assert.Single(report.RootElement.GetProperty("transports").EnumerateObject()).Name);
        return report.RootElement.Clone();
    }

    [Fact]
    public async Task Serve_WithoutTheLibrary_SaysWhichAndHowToNameIt()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["in"], 1000);
        Outcome outcome = await RunAsync("serve", "--checkpoint", "m=" + temp["in"], "--listen", "http://127.0.0.1:0", "--transport", "mooncake", "--mooncake-library", temp["none.so"]);
        string line = outcome.FailedWithOneLine();
        Assert.Contains(temp["none.so"], line, StringComparison.Ordinal);
        Assert.Contains("--mooncake-library", line, StringComparison.Ordinal);
        Assert.Contains(LibraryVariable, line, StringComparison.Ordinal);
    }

    [Fact]
    public async Task JoinAndPlan_WithoutTheLibrary_SayWhich()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["in"], 1000);
        await using Holder holder = await Holder.ServeAsync(temp["in"]);
        string[] mooncake = ["--metas-url", holder.MetasUrl, "--transport", "mooncake", "--mooncake-library", temp["none.so"]];
        Assert.Contains(temp["none.so"], (await RunAsync(["join", .. mooncake, "--to", "null"])).FailedWithOneLine(), StringComparison.Ordinal);
        Outcome plan = (await RunAsync(["plan", .. mooncake, "--json"])).Succeeded();
        Assert.Contains(temp["none.so"], plan.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Serve_ALibraryThatLacksASymbol_NamesIt()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["in"], 1000);
        string library = await BuildAsync(temp, "createTransferEngine", "destroyTransferEngine", "openSegment", "registerLocalMemoryBatch",
            "unregisterLocalMemoryBatch", "allocateBatchID", "submitTransfer", "getTransferStatus", "freeBatchID");
        string line = (await RunAsync("serve", "--checkpoint", "m=" + temp["in"], "--listen", "http://127.0.0.1:0", "--transport", "mooncake", "--mooncake-library", library)).FailedWithOneLine();
        Assert.Contains("getLocalIpAndPort", line, StringComparison.Ordinal);
        Assert.Contains("v0.3.0", line, StringComparison.Ordinal);

        await using Engine doctor = Engine.Start(new Dictionary<string, string> { [LibraryVariable] = library }, "doctor", "--json");
        Assert.Contains("has no getLocalIpAndPort", (await doctor.EndAsync()).Succeeded().Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Serve_WithAToken_NeedsConsentForPlainPeers()
    {
        NeedLibrary();
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["in"], 1000);
        File.WriteAllText(temp["token"], "a token of ours\n");
        Outcome outcome = await RunAsync("serve", "--checkpoint", "m=" + temp["in"], "--listen", "http://127.0.0.1:0", "--transport", "mooncake", "--token-file", temp["token"]);
        Assert.Contains("--plain-peers all", outcome.FailedWithOneLine(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Doctor_WithTheLibrary_SaysItsRelease()
    {
        NeedLibrary();
        Assert.Contains("v0.3.", (await RunAsync("doctor")).Succeeded().Output.Split('\n').Single(line => line.Contains("--transport mooncake", StringComparison.Ordinal)), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("auto", "mooncake")]
    [InlineData("mooncake", "tcp")]
    [InlineData("mooncake", "mooncake")]
    public async Task Join_AcrossTransports_IsBitForBitAndVerified(string served, string joined)
    {
        NeedLibrary();
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["in"]);
        await using Holder holder = await ServeAsync(temp["in"], "--transport", served);
        await JoinAsync(temp, holder, joined);
        holder.Engine.Signal(Engine.SigTerm);
        (await holder.Engine.EndAsync()).Succeeded();
    }

    [Fact]
    public async Task Join_ManyRounds_IsVerified()
    {
        NeedLibrary();
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["in"], (64 << 20) + 13);
        await using Holder holder = await ServeAsync(temp["in"], "--transport", "mooncake");
        Outcome outcome = (await RunAsync("join", "--metas-url", holder.MetasUrl, "--to", "memory", "--transport", "mooncake", "--require-verify", "--repeat", "5", "--json")).Succeeded();
        Assert.Contains("\"verified\":true", outcome.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Serve_ThroughTheLibrary_IsReadByMooncake()
    {
        NeedLibrary();
        Assert.SkipWhen(s_peer is null, $"{PeerVariable} names no program built upon Mooncake's C API");
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["in"], 3_000_001);
        await using Holder holder = await ServeAsync(temp["in"], "--transport", "mooncake");
        JsonNode owner = await MetasAsync(holder);
        using Process reader = Process.Start(new ProcessStartInfo(s_peer, ["read", "--segment", holder.P2pStoreAddress, "--address", owner["memory_buffer_metas_list"]![0]!["ptr"]!.ToString(),
            "--length", Text(3_000_001), "--out", temp["read"]]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        Task<string> errors = reader.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        string output = await reader.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        await reader.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.True(reader.ExitCode == 0, output + await errors);
        Assert.True(SmallCheckpoint.Read(temp["in"])["weight"].Bytes.AsSpan().SequenceEqual(File.ReadAllBytes(temp["read"])));
    }

    [Fact]
    public async Task Join_FromMooncake_IsBitForBit()
    {
        NeedLibrary();
        Assert.SkipWhen(s_peer is null, $"{PeerVariable} names no program built upon Mooncake's C API");
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["in"], 9_000_001);
        JsonNode owner;
        await using (Holder holder = await ServeAsync(temp["in"], "--hold", "anon"))      // summed while it is copied, so that the metas have the digests
        {
            owner = (await MetasAsync(holder)).DeepClone();      // with the digests of the same bytes
        }
        File.WriteAllBytes(temp["bytes"], [.. SmallCheckpoint.Read(temp["in"])["weight"].Bytes, .. new byte[256]]);
        using Process peer = Process.Start(new ProcessStartInfo(s_peer, ["hold", "--file", temp["bytes"]]) { RedirectStandardInput = true, RedirectStandardOutput = true })!;
        using JsonDocument held = JsonDocument.Parse((await peer.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken))!);
        owner["p2p_store_addr"] = held.RootElement.GetProperty("segment").GetString();
        owner["memory_buffer_metas_list"]![0]!["ptr"] = held.RootElement.GetProperty("address").GetUInt64();
        File.WriteAllText(temp["metas.json"], new JsonObject { ["0"] = owner }.ToJsonString());

        Outcome outcome = (await RunAsync("join", "--load-metas-file", temp["metas.json"], "--to", "dir:" + temp["out"], "--transport", "mooncake", "--require-verify", "--json")).Succeeded();
        Assert.Contains("\"verified\":true", outcome.Output, StringComparison.Ordinal);
        Assert.Equal(SmallCheckpoint.Read(temp["in"]), SmallCheckpoint.Read(temp["out"]));
        peer.StandardInput.Close();
        await peer.WaitForExitAsync(TestContext.Current.CancellationToken);
    }

    private static async Task<JsonNode> MetasAsync(Holder holder)
        => JsonNode.Parse((await RunAsync("metas", "--metas-url", holder.MetasUrl, "--format", "json")).Succeeded().Output)!.AsObject().First().Value!;

    private static async Task<string> BuildAsync(TempDirectory temp, params string[] functions)
    {
        File.WriteAllLines(temp["library.c"], functions.Select(function => $"void {function}(void) {{ }}"));
        try
        {
            using Process compiler = Process.Start("cc", ["-shared", "-fPIC", temp["library.c"], "-o", temp["library.so"]]);
            await compiler.WaitForExitAsync(TestContext.Current.CancellationToken);
            Assert.Equal(0, compiler.ExitCode);
        }
        catch (System.ComponentModel.Win32Exception)
        {
            Assert.Skip("there is no C compiler (cc)");
        }
        return temp["library.so"];
    }

    private static string Text(int number) => number.ToString(CultureInfo.InvariantCulture);
}
