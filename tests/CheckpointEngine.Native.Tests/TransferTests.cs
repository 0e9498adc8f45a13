using System.Text.Json;
using CheckpointEngine.Native.Tests.Support;

namespace CheckpointEngine.Native.Tests;

/// <summary>Two processes - C, C++, the command - in every pairing: each joins what the others serve, bit for bit.</summary>
public sealed class TransferTests(Programs programs)
{
    public static TheoryData<string, string> LanguagesAndDestinations()
    {
        var data = new TheoryData<string, string>();
        foreach (string language in new[] { "c", "cpp" })
        {
            foreach (string destination in new[] { "memory", "tensors", "buckets", "directory", "null" })
            {
                data.Add(language, destination);
            }
        }
        return data;
    }

    [Theory]
    [MemberData(nameof(LanguagesAndDestinations))]
    public async Task Program_JoinsWhatTheCommandServes_BitForBit(string language, string destination)
    {
        string peer = await PeerAsync(language);
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        Dictionary<string, Tensor> expected = SmallCheckpoint.Read(temp["model"]);
        (Child serving, string url) = await ServeByCommandAsync(temp["model"]);
        await using Child server = serving;

        await JoinAndCompareAsync(peer, destination, url, temp, expected, attached: true);

        if (destination == "directory")
        {
            Assert.Equal(SmallCheckpoint.Config, File.ReadAllText(Path.Combine(temp["joined-local"], "config.json")));
        }
    }

    [Theory]
    [InlineData("c")]
    [InlineData("cpp")]
    public async Task Command_JoinsFilesThatAProgramServes_BitForBit(string language)
    {
        string peer = await PeerAsync(language);
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        (Child serving, string url) = await ServeAsync(peer, "serve-files", "m", temp["model"]);
        await using Child server = serving;

        (await Child.RunAsync(Repository.Command, "join", "--metas-url", url, "--to", "dir:" + temp["joined"], "--require-verify")).Succeeded();

        CallerTensors.AssertSame(SmallCheckpoint.Read(temp["model"]), SmallCheckpoint.Read(temp["joined"]));
        Assert.Equal(SmallCheckpoint.Config, File.ReadAllText(Path.Combine(temp["joined"], "config.json")));
        (await server.EndAsync()).Succeeded();
    }

    [Theory]
    [InlineData("c")]
    [InlineData("cpp")]
    public async Task Command_JoinsTheCallersTensors_TiedOnesToo(string language)
    {
        string peer = await PeerAsync(language);
        using var temp = new TempDirectory();
        CallerTensors tensors = CallerTensors.Tied();
        (Child serving, string url) = await ServeAsync(peer, ["serve-tensors", "m", .. tensors.Write(temp, "own")]);
        await using Child server = serving;

        (await Child.RunAsync(Repository.Command, "join", "--metas-url", url, "--to", "dir:" + temp["joined"], "--require-verify")).Succeeded();

        CallerTensors.AssertSame(tensors.Expected(), SmallCheckpoint.Read(temp["joined"]));
        (await server.EndAsync()).Succeeded();
    }

    [Theory]
    [InlineData("c", "cpp", "memory")]
    [InlineData("c", "cpp", "tensors")]
    [InlineData("c", "cpp", "buckets")]
    [InlineData("cpp", "c", "memory")]
    [InlineData("cpp", "c", "tensors")]
    [InlineData("cpp", "c", "buckets")]
    [InlineData("c", "c", "directory")]
    public async Task Program_JoinsTheCallersTensors_OfAnother(string serverLanguage, string joinerLanguage, string destination)
    {
        string server = await PeerAsync(serverLanguage);
        string joiner = await PeerAsync(joinerLanguage);
        using var temp = new TempDirectory();
        CallerTensors tensors = CallerTensors.Tied();
        (Child serving, string url) = await ServeAsync(server, ["serve-tensors", "m", .. tensors.Write(temp, "own")]);
        await using Child holder = serving;

        await JoinAndCompareAsync(joiner, destination, url, temp, tensors.Expected(), attached: false);

        (await holder.EndAsync()).Succeeded();
    }

    [Fact]
    public async Task Token_RightWrongAndMissing_OpensOrDoesNot()
    {
        string c = await PeerAsync("c");
        string cpp = await PeerAsync("cpp");
        using var temp = new TempDirectory();
        CallerTensors tensors = CallerTensors.Tied();
        var token = new Dictionary<string, string> { ["CE_PEER_TOKEN"] = "a secret that is long enough" };
        await using Child server = Child.Start(c, token, ["serve-tensors", "m", .. tensors.Write(temp, "own")]);
        string url = (await server.ReadLineAsync())["serving ".Length..];

        (await Child.RunAsync(cpp, token, "join", "memory", url, temp["joined"])).Succeeded();
        CallerTensors.AssertSame(tensors.Expected(), CallerTensors.Read(temp["joined"]));

        Assert.StartsWith("CE_E_REFUSED ", (await Child.RunAsync(cpp, "join", "memory", url, temp["none"])).EndedWith(1).Output, StringComparison.Ordinal);
        token["CE_PEER_TOKEN"] = "another secret";
        Assert.StartsWith("CE_E_REFUSED ", (await Child.RunAsync(c, token, "join", "null", url, temp["none"])).EndedWith(1).Output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("c")]
    [InlineData("cpp")]
    public async Task Update_WhileAnotherProcessJoins_IsAllOldOrAllNew(string language)
    {
        string server = await PeerAsync(language);
        string joiner = await PeerAsync("c");
        using var temp = new TempDirectory();
        CallerTensors tensors = CallerTensors.Tied();
        (Child serving, string url) = await ServeAsync(server, ["serve-tensors", "m", .. tensors.Write(temp, "own")]);
        await using Child holder = serving;
        await using Child slow = Child.Start(joiner, "join-held", url, temp["slow"]);
        Assert.Equal("held", await slow.ReadLineAsync());      // it has the first bucket, and most is still to be read

        Assert.Equal("ok begin", await holder.AskAsync("begin"));
        Assert.StartsWith("CE_E_BUSY ", (await Child.RunAsync(joiner, "join", "memory", url, temp["none"])).EndedWith(1).Output, StringComparison.Ordinal);
        Assert.StartsWith("CE_E_STATE ", await holder.AskAsync("begin"), StringComparison.Ordinal);
        Assert.Equal("ok flip", await holder.AskAsync("flip"));
        Assert.Equal("ok commit", await holder.AskAsync("commit"));

        // Who began before fails; who begins now gets the new generation.
        await slow.WriteLineAsync("go on");
        Outcome outcome = (await slow.EndAsync()).EndedWith(1);
        Assert.Matches("^held\nCE_E_(REFUSED|NOT_FOUND|UNREACHABLE|DIGEST_MISMATCH|SUPERSEDED) ", outcome.Output);
        (await Child.RunAsync(joiner, "join", "memory", url, temp["joined"])).Succeeded();
        CallerTensors.AssertSame(tensors.Expected(flipped: true), CallerTensors.Read(temp["joined"]));
        (await Child.RunAsync(Repository.Command, "join", "--metas-url", url, "--to", "dir:" + temp["copy"], "--require-verify")).Succeeded();
        CallerTensors.AssertSame(tensors.Expected(flipped: true), SmallCheckpoint.Read(temp["copy"]));
        (await holder.EndAsync()).Succeeded();
    }

    [Fact]
    public async Task Unregister_WhileAnotherProcessReads_LeavesNobodyInTheMemory()
    {
        string peer = await PeerAsync("c");
        using var temp = new TempDirectory();
        CallerTensors tensors = CallerTensors.Tied();
        (Child serving, string url) = await ServeAsync(peer, ["serve-tensors", "m", .. tensors.Write(temp, "own")]);
        await using Child holder = serving;
        await using Child slow = Child.Start(peer, "join-held", url, temp["slow"]);
        Assert.Equal("held", await slow.ReadLineAsync());

        Assert.Equal("ok unregister", await holder.AskAsync("unregister"));      // and the program has zeroed its memory
        await slow.WriteLineAsync("go on");

        Outcome outcome = (await slow.EndAsync()).EndedWith(1);
        Assert.Matches("^held\nCE_E_(REFUSED|NOT_FOUND|UNREACHABLE|DIGEST_MISMATCH|SUPERSEDED) ", outcome.Output);
        Assert.StartsWith("CE_E_NOT_FOUND ", (await Child.RunAsync(peer, "join", "null", url, temp["none"])).EndedWith(1).Output, StringComparison.Ordinal);
        Assert.StartsWith("CE_E_NOT_FOUND ", await holder.AskAsync("unregister"), StringComparison.Ordinal);
        (await holder.EndAsync()).Succeeded();

        // What came before the end is what was there: no zero from after it.
        Dictionary<string, Tensor> expected = tensors.Expected();
        Assert.All(CallerTensors.Read(temp["slow"]), tensor => Assert.True(expected[tensor.Key].Equals(tensor.Value), tensor.Key));
    }

    // By the memory of this host, which is taken where it is offered, and over TCP.
    private static async Task JoinAndCompareAsync(string peer, string destination, string url, TempDirectory temp, Dictionary<string, Tensor> expected, bool attached)
    {
        foreach (bool tcp in (bool[])[false, true])
        {
            string output = temp[tcp ? "joined-tcp" : "joined-local"];
            string[] into = destination == "tensors" ? CallerTensors.RoomFor(expected).Write(temp, tcp ? "room-tcp" : "room-local") : [];
            Dictionary<string, string> environment = tcp ? new() { ["CE_PEER_TCP"] = "1" } : [];
            string[] report = (await Child.RunAsync(peer, environment, ["join", destination, url, output, .. into])).Succeeded().Output.TrimEnd('\n').Split(' ');
            Assert.Equal(["joined", "verified", $"{expected.Count}", $"{expected.Values.Sum(tensor => (long)tensor.Bytes.Length)}"], report[..4]);
            Assert.Equal([tcp ? "tcp" : "local", attached && !tcp && destination == "memory" ? "attached" : "copied"], report[5..]);
            if (destination == "directory")
            {
                CallerTensors.AssertSame(expected, SmallCheckpoint.Read(output));
            }
            else if (destination != "null")
            {
                CallerTensors.AssertSame(expected, CallerTensors.Read(output));
            }
        }
    }

    private static async Task<(Child Serving, string Url)> ServeAsync(string peer, params string[] arguments)
    {
        Child server = Child.Start(peer, arguments);
        try
        {
            string line = await server.ReadLineAsync();
            Assert.Matches("^serving ce://127\\.0\\.0\\.1:[0-9]+/m$", line);
            return (server, line["serving ".Length..]);
        }
        catch
        {
            await server.DisposeAsync();
            throw;
        }
    }

    private static async Task<(Child Serving, string Url)> ServeByCommandAsync(string directory)
    {
        Child server = Child.Start(Repository.Command, "serve", "--checkpoint", "m=" + directory, "--listen", "http://127.0.0.1:0", "--json");
        try
        {
            using JsonDocument ready = JsonDocument.Parse(await server.ReadLineAsync());
            return (server, ready.RootElement.GetProperty("http").GetString() + "/v1/metas");
        }
        catch
        {
            await server.DisposeAsync();
            throw;
        }
    }

    private Task<string> PeerAsync(string language) => language == "c" ? programs.CAsync("peer") : programs.CppAsync("peer");
}
