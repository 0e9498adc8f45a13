using System.Net;
using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests;

/// <summary>What the commands tell of themselves.</summary>
public sealed class TelemetryTests
{
    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Fact]
    public async Task ServeAndJoin_WhatBothCounted_IsAtTheirMetrics()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        File.WriteAllText(temp["token"], "secret-token");
        await using Holder holder = await Holder.ServeAsync(temp["model"], "--token-file", temp["token"], "--metrics-open", "--measure-peers");
        await using Holder second = await Holder.StartAsync("join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--serve", "--listen", "http://127.0.0.1:0", "--token-file", temp["token"], "--json");

        using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false });
        string served = await client.GetStringAsync(holder.Http + "/metrics", Cancel);
        Assert.Contains("checkpoint_engine_checkpoint_changes_total{otel_scope_name=\"CheckpointEngine\",change=\"registered\"} 1\n", served, StringComparison.Ordinal);
        Assert.Matches("checkpoint_engine_serve_sent_bytes_total\\{[^}]*plane=\"tcp\"\\} [1-9]", served);
        Assert.Matches("checkpoint_engine_serve_peer_sent_bytes_total\\{[^}]*peer=\"127.0.0.1\"\\} [1-9]", served);
        Assert.Contains("checkpoint_engine_leases_taken_total{otel_scope_name=\"CheckpointEngine\"} 1\n", served, StringComparison.Ordinal);

        using HttpResponseMessage page = await client.GetAsync(holder.Http, Cancel);
        Assert.Equal(HttpStatusCode.Unauthorized, page.StatusCode);
        using HttpResponseMessage closed = await client.GetAsync(second.Http + "/metrics", Cancel);
        Assert.Equal(HttpStatusCode.Unauthorized, closed.StatusCode);
        client.DefaultRequestHeaders.Add("Authorization", "Bearer secret-token");
        string joined = await client.GetStringAsync(second.Http + "/metrics", Cancel);
        Assert.Contains("checkpoint_engine_joins_total{otel_scope_name=\"CheckpointEngine\",outcome=\"ok\"} 1\n", joined, StringComparison.Ordinal);
        Assert.Matches("checkpoint_engine_join_read_bytes_total\\{[^}]*plane=\"tcp\"\\} [1-9]", joined);
        Assert.Contains("join-checkpoint", await client.GetStringAsync(second.Http, Cancel), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_WithACollector_HasSentItsTraceWhenItExits()
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSharded(temp["model"]);
        await using Holder holder = await Holder.ServeAsync(temp["model"]);
        await using var collector = new Collector();
        await using Engine join = Engine.Start(new Dictionary<string, string> { ["OTEL_SERVICE_NAME"] = "the-joiner" }, "join", "--metas-url", holder.MetasUrl, "--to", "null", "--otlp", collector.Url, "--json");
        Outcome outcome = await join.EndAsync();
        Assert.Equal(0, outcome.ExitCode);

        Assert.All((string[])["join from URL", "metas", "plan", "transfer", "verify", "the-joiner"], word => Assert.Contains(word, collector.Received("/v1/traces"), StringComparison.Ordinal));
        Assert.All((string[])["checkpoint_engine.join.read", "checkpoint_engine.joins", "the-joiner"], word => Assert.Contains(word, collector.Received("/v1/metrics"), StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("ftp://127.0.0.1")]
    [InlineData("127.0.0.1:4318")]
    public async Task Collector_ThatIsNoUrl_IsAMistakeOfUse(string url)
    {
        await using Engine join = Engine.Start(new Dictionary<string, string>(), "join", "--load-metas-file", "/nowhere", "--otlp", url);
        Outcome outcome = await join.EndAsync();
        Assert.Equal(2, outcome.ExitCode);
        Assert.Contains("--otlp", outcome.Errors, StringComparison.Ordinal);
    }
}
