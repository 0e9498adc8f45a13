using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>What the command says without an engine behind it: version, help, usage errors, doctor.</summary>
public sealed class CommandLineTests
{
    [Fact]
    public async Task Version_Asked_IsOneLine()
        => Assert.Equal($"checkpoint-engine {EngineVersion.Text}\n", (await Engine.RunAsync("--version")).Succeeded().Output);

    [Fact]
    public async Task Help_OfAll_NamesEveryCommand()
    {
        string help = (await Engine.RunAsync("--help")).Succeeded().Output;
        Assert.All(new[] { "serve", "join", "update", "metas", "plan", "doctor", "Examples:" }, word => Assert.Contains(word, help, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("serve", "--checkpoint", "--listen", "--tls-cert", "--tls-key", "--tls-client-ca", "--token-file", "--insecure", "--plain-peers", "--allow-path",
        "--address", "--port", "--transport", "--rank", "--peers", "--gather", "--hold", "--pin", "--digest", "--save-metas-file", "--sleep-time", "--json", "--ca-file", "--cert", "--key")]
    [InlineData("join", "--metas-url", "--load-metas-file", "--checkpoint-name", "--include", "--exclude", "--weights-only", "--to", "--serve", "--transport",
        "--no-verify", "--require-verify", "--repeat", "--timeout", "--stall-timeout", "--keep-partial", "--json", "--token-file", "--listen", "--ca-file", "--cert", "--key",
        "--endpoint", "--uds", "--engine", "--inference-parallel-size", "--worker-protocol", "--update-devices")]
    [InlineData("update", "--checkpoint-path", "--checkpoint-name", "--endpoint", "--uds", "--engine", "--inference-parallel-size", "--worker-protocol", "--update-devices", "--bucket-mib",
        "--api-key-file", "--weight-version", "--no-flush-cache", "--files-dir", "--keep-files", "--health-timeout", "--step-timeout", "--update-timeout", "--save-metas-file", "--sleep-time",
        "--update-method", "--json", "--hold", "--address")]
    [InlineData("metas", "--metas-url", "--load-metas-file", "--format", "--output", "--token-file")]
    [InlineData("plan", "--metas-url", "--load-metas-file", "--json", "--token-file")]
    [InlineData("doctor", "--json")]
    public async Task Help_OfCommand_HasUsageExamplesAndEveryOption(string command, params string[] options)
    {
        string help = (await Engine.RunAsync(command, "--help")).Succeeded().Output;
        Assert.Contains($"checkpoint-engine {command}", help, StringComparison.Ordinal);
        Assert.Contains("Examples:", help, StringComparison.Ordinal);
        Assert.All(options, option => Assert.Contains($"  {option}", help, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("no command")]
    [InlineData("unknown command", "fetch")]
    [InlineData("unknown option", "doctor", "--frob")]
    [InlineData("stray argument", "doctor", "now")]
    [InlineData("no checkpoint", "serve")]
    [InlineData("no path", "serve", "--checkpoint", "m")]
    [InlineData("empty name", "serve", "--checkpoint", "=x")]
    [InlineData("name twice", "serve", "--checkpoint", "m=x", "--checkpoint", "m=y")]
    [InlineData("port range", "serve", "--checkpoint", "m=x", "--port", "65536")]
    [InlineData("rank word", "serve", "--checkpoint", "m=x", "--rank", "first")]
    [InlineData("hold word", "serve", "--checkpoint", "m=x", "--hold", "disk")]
    [InlineData("transport not here", "serve", "--checkpoint", "m=x", "--transport", "smoke")]
    [InlineData("listen scheme", "serve", "--checkpoint", "m=x", "--listen", "ftp://127.0.0.1:1")]
    [InlineData("listen port", "serve", "--checkpoint", "m=x", "--listen", "http://127.0.0.1:70000")]
    [InlineData("https without key", "serve", "--checkpoint", "m=x", "--listen", "https://127.0.0.1:0")]
    [InlineData("address any", "serve", "--checkpoint", "m=x", "--address", "0.0.0.0")]
    [InlineData("plain peers", "serve", "--checkpoint", "m=x", "--plain-peers", "friends")]
    [InlineData("gather alone", "serve", "--checkpoint", "m=x", "--gather")]
    [InlineData("sleep negative", "serve", "--checkpoint", "m=x", "--sleep-time", "-1")]
    [InlineData("no source", "join")]
    [InlineData("two sources", "join", "--metas-url", "http://127.0.0.1:1/v1/metas", "--load-metas-file", "x")]
    [InlineData("to word", "join", "--load-metas-file", "x", "--to", "disk")]
    [InlineData("to dir without path", "join", "--load-metas-file", "x", "--to", "dir:")]
    [InlineData("repeat zero", "join", "--load-metas-file", "x", "--repeat", "0")]
    [InlineData("timeout zero", "join", "--load-metas-file", "x", "--timeout", "0")]
    [InlineData("verify both", "join", "--load-metas-file", "x", "--no-verify", "--require-verify")]
    [InlineData("serve from directory", "join", "--load-metas-file", "x", "--serve", "--to", "dir:y")]
    [InlineData("listen without serve", "join", "--load-metas-file", "x", "--listen", "http://127.0.0.1:0")]
    [InlineData("uds without endpoint", "join", "--load-metas-file", "x", "--uds", "/run/vllm.sock")]
    [InlineData("endpoint and dir", "join", "--load-metas-file", "x", "--endpoint", "http://127.0.0.1:1", "--to", "dir:y")]
    [InlineData("endpoint and repeat", "join", "--load-metas-file", "x", "--endpoint", "http://127.0.0.1:1", "--repeat", "2")]
    [InlineData("update of nothing", "update")]
    [InlineData("endpoint scheme", "update", "--checkpoint-path", "x", "--endpoint", "ftp://127.0.0.1:1")]
    [InlineData("files kept of none", "update", "--checkpoint-path", "x", "--keep-files")]
    [InlineData("worker protocol", "update", "--checkpoint-path", "x", "--worker-protocol", "0.3")]
    [InlineData("cert alone", "metas", "--load-metas-file", "x", "--cert", "y")]
    [InlineData("format word", "metas", "--load-metas-file", "x", "--format", "yaml")]
    public async Task Usage_Wrong_IsExit2AndSaysWhatToTry(string mistake, params string[] arguments)
    {
        Outcome outcome = await Engine.RunAsync(arguments);
        Assert.True(outcome.ExitCode == 2, $"{mistake}: exit {outcome.ExitCode}\n{outcome.Errors}");
        Assert.Empty(outcome.Output);
        Assert.StartsWith("checkpoint-engine: ", outcome.Errors, StringComparison.Ordinal);
        Assert.Contains("--help", outcome.Errors, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("serve", "--checkpoint", "m=/nonexistent/model")]
    [InlineData("join", "--load-metas-file", "/nonexistent/metas.pkl")]
    [InlineData("metas", "--load-metas-file", "/nonexistent/metas.pkl")]
    [InlineData("plan", "--load-metas-file", "/nonexistent/metas.pkl")]
    public async Task File_Unknown_IsExit1AndOneLineThatNamesIt(params string[] arguments)
        => Assert.Contains("/nonexistent/", (await Engine.RunAsync(arguments)).FailedWithOneLine(), StringComparison.Ordinal);

    [Fact]
    public async Task Join_NobodyListens_IsExit1AndNamesTheUrl()
        => Assert.Contains("127.0.0.1:1/", (await Engine.RunAsync("join", "--metas-url", "http://127.0.0.1:1/v1/metas")).FailedWithOneLine(), StringComparison.Ordinal);

    [Fact]
    public async Task CustomDist_Given_IsIgnoredWithANote()
    {
        Outcome outcome = (await Engine.RunAsync("doctor", "--custom-dist")).Succeeded();
        Assert.Contains("note: --custom-dist", outcome.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Doctor_Json_ParsesAndKnowsThisHost()
    {
        using JsonDocument document = JsonDocument.Parse((await Engine.RunAsync("doctor", "--json")).Succeeded().Output);
        JsonElement root = document.RootElement;
        Assert.Equal(EngineVersion.Text, root.GetProperty("versions").GetProperty("checkpoint_engine").GetString());
        Assert.True(root.GetProperty("cpu").GetProperty("count").GetInt32() > 0);
        Assert.True(root.GetProperty("memory").GetProperty("total_bytes").GetInt64() > 0);
        Assert.Contains(root.GetProperty("libraries").EnumerateArray(), library => library.GetProperty("name").GetString() == "libibverbs.so.1");
        Assert.Equal(JsonValueKind.Array, root.GetProperty("advice").ValueKind);
    }

    [Fact]
    public async Task Doctor_DevicesNamed_GoesByThemAndNotByTheEnvironment()
    {
        using JsonDocument document = JsonDocument.Parse((await Engine.RunAsync("doctor", "--devices", "none0,none1:2", "--json")).Succeeded().Output);
        Assert.Equal("--devices=none0,none1:2", document.RootElement.GetProperty("rdma").GetProperty("verbs").GetProperty("selection").GetString());
    }

    [Fact]
    public async Task Doctor_Plain_HasALineATopic()
    {
        string text = (await Engine.RunAsync("doctor")).Succeeded().Output;
        Assert.All(new[] { "version", "memlock", "huge pages", "rdma", "library", "sockets" }, topic => Assert.Contains("\n" + topic, "\n" + text, StringComparison.Ordinal));
    }
}
