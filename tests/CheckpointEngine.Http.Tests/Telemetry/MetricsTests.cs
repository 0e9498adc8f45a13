using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.RegularExpressions;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Http.Tests.Telemetry;

/// <summary>What Prometheus reads: the format, the figures of a real join, who may read it; and that the dashboard and the documentation speak of what there is.</summary>
[Collection(nameof(MetricsTests))]
[CollectionDefinition(nameof(MetricsTests), DisableParallelization = true)]
public sealed class MetricsTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("ce-metrics-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    // A holder that was joined over TCP once, refused somebody, and lost a lease: every instrument has something to say.
    private async Task<Exposition> ReadAfterEverythingAsync()
    {
        using TelemetryExport export = TelemetryExport.Start();
        await using var holder = new ParameterServer(new ParameterServerOptions { MeasurePeers = true, DrainTimeout = TimeSpan.FromMilliseconds(1), Token = AccessToken.FromText("correct horse") });
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [SmallModel.Write(_directory)], Cancel);
        await using CheckpointEngineHost host = await CheckpointEngineHost.StartAsync(holder, new CheckpointEngineHostOptions { Listen = ["http://127.0.0.1:0"], Telemetry = export }, Cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions { Token = AccessToken.FromText("correct horse") });
        CheckpointEngine.Metas.CheckpointMetas metas = holder.GetMetas("model").Metas;
        await joiner.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Null }, null, Cancel);
        await using var stranger = new ParameterServer(new ParameterServerOptions { Token = AccessToken.FromText("battery staple") });
        await Assert.ThrowsAsync<CheckpointEngineException>(() => stranger.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp }, null, Cancel));
        // The holder goes while it is read: its lease is revoked.
        await Assert.ThrowsAnyAsync<Exception>(() => joiner.JoinAsync(metas, new JoinOptions
        {
            Transport = TransportChoice.Tcp,
            CheckpointName = "bucketwise",
            Destination = JoinDestinationKind.Buckets,
            OnBucket = _ => holder.UnregisterAsync("model", Cancel).Wait(Cancel),
        }, null, Cancel));
        await ReachLimitsAsync(holder);
        await Assert.ThrowsAsync<CheckpointEngineException>(() => holder.UpdateAsync("model", new Inference.InferenceUpdateOptions { Endpoint = new Uri("http://127.0.0.1:9") }, null, Cancel));

        using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = new Uri(host.Addresses[0]) };
        using HttpResponseMessage alive = await client.GetAsync("/v1/healthz", Cancel);       // so that there is a request to count
        using HttpResponseMessage reply = await client.GetAsync("/metrics", Cancel);
        Assert.Equal(HttpStatusCode.OK, reply.StatusCode);
        Assert.Equal("text/plain; version=0.0.4; charset=utf-8", reply.Content.Headers.ContentType?.ToString());
        return Exposition.Parse(await reply.Content.ReadAsStringAsync(Cancel));
    }

    // One place: who says nothing gives way to a request, and a request under way to nobody. One request a second: who asks ten at once is refused some.
    private static async Task ReachLimitsAsync(ParameterServer holder)
    {
        await using CheckpointEngineHost narrow = await CheckpointEngineHost.StartAsync(holder, new CheckpointEngineHostOptions { Listen = ["http://127.0.0.1:0"], Limits = new ConnectionLimits(1, 1) }, Cancel);
        var address = new Uri(narrow.Addresses[0]);
        using var silent = new TcpClient();
        await silent.ConnectAsync(IPAddress.Loopback, address.Port, Cancel);
        using var asking = new TcpClient();
        await asking.ConnectAsync(IPAddress.Loopback, address.Port, Cancel);
        Assert.Equal(0, await ReadAsync(silent));         // closed for the newcomer
        await asking.GetStream().WriteAsync("POST /v1/metas?checkpoint=x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer correct horse\r\nContent-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"u8.ToArray(), Cancel);
        Assert.NotEqual(0, await asking.GetStream().ReadAsync(new byte[1], Cancel));       // under way: it waits for the rest
        using var late = new TcpClient();
        Assert.Equal(0, await ReadAsync(late, address.Port));

        await using CheckpointEngineHost slow = await CheckpointEngineHost.StartAsync(holder, new CheckpointEngineHostOptions { Listen = ["http://127.0.0.1:0"], Limits = new ConnectionLimits(64, 64, 1) }, Cancel);
        using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = new Uri(slow.Addresses[0]) };
        var left = Enumerable.Range(0, 10).Select(_ => client.GetAsync("/v1/metas", Cancel)).ToList();
        HttpStatusCode answered;
        do
        {
            Task<HttpResponseMessage> next = await Task.WhenAny(left);
            left.Remove(next);
            answered = (await next).StatusCode;
        }
        while (answered != HttpStatusCode.TooManyRequests);
        await Task.WhenAll(left);
    }

    private static async Task<int> ReadAsync(TcpClient client, int? connectTo = null)
    {
        try
        {
            if (connectTo is int port)
            {
                await client.ConnectAsync(IPAddress.Loopback, port, Cancel);
            }
            return await client.GetStream().ReadAsync(new byte[1], Cancel);
        }
        catch (Exception reset) when (reset is IOException or SocketException)
        {
            return 0;       // closed as well
        }
    }

    [Fact]
    public async Task Metrics_AfterAJoin_TellOfBothEnds()
    {
        Exposition read = await ReadAfterEverythingAsync();
        Assert.InRange(read["checkpoint_engine_join_read_bytes_total{plane=\"tcp\"}"], 1024, 4096);
        Assert.InRange(read["checkpoint_engine_serve_sent_bytes_total{plane=\"tcp\"}"], 1024, 1 << 20);
        Assert.InRange(read["checkpoint_engine_serve_peer_sent_bytes_total{peer=\"127.0.0.1\"}"], 1024, 1 << 20);
        Assert.Equal(1, read["checkpoint_engine_joins_total{outcome=\"ok\"}"]);
        Assert.Equal(1, read["checkpoint_engine_join_duration_seconds_count{outcome=\"ok\"}"]);
        Assert.Equal(1, read["checkpoint_engine_join_phase_duration_seconds_bucket{le=\"+Inf\",phase=\"transfer\"}"]);
        Assert.Equal(1, read["checkpoint_engine_checkpoint_changes_total{change=\"registered\"}"]);
        Assert.Equal(1, read["checkpoint_engine_leases_revoked_total"]);
        Assert.Equal(1, read["checkpoint_engine_refusals_total{reason=\"token\",service=\"peer\"}"]);
        Assert.Equal(1, read["checkpoint_engine_connections_displaced_total{listener=\"http\"}"]);
        Assert.Equal(1, read["checkpoint_engine_connections_refused_total{listener=\"http\"}"]);
        Assert.InRange(read["checkpoint_engine_requests_refused_total{listener=\"http\"}"], 1, 10);
        Assert.Equal(0, read["checkpoint_engine_leases_live"]);
        Assert.True(read["dotnet_process_memory_working_set_bytes"] > 1 << 20);
        Assert.Equal("counter", read.Types["checkpoint_engine_join_read_bytes_total"]);
        Assert.Equal("gauge", read.Types["checkpoint_engine_checkpoints_size_bytes"]);
        Assert.Equal("histogram", read.Types["checkpoint_engine_join_phase_duration_seconds"]);
        Assert.All(read.Types.Keys, family => Assert.True(read.Helps.ContainsKey(family), $"{family} has no help"));
    }

    [Fact]
    public async Task Dashboard_ItsQueries_NameMetricsAndLabelsThatThereAre()
    {
        Exposition read = await ReadAfterEverythingAsync();
        HashSet<string> families = [.. read.Types.Keys, .. read.Types.Where(static type => type.Value == "histogram").SelectMany(static type => (string[])[type.Key + "_bucket", type.Key + "_sum", type.Key + "_count"]), .. NotProvoked];
        using JsonDocument dashboard = JsonDocument.Parse(Repository.Read("examples/grafana/checkpoint-engine.json"));
        string[] queries = [.. FindQueries(dashboard.RootElement)];
        Assert.InRange(queries.Length, 10, 100);
        foreach (string query in queries)
        {
            string[] named = [.. Regex.Matches(query, "([a-z_]+)\\{").Select(static match => match.Groups[1].Value)];
            Assert.NotEmpty(named);
            Assert.All(named, name => Assert.True(families.Contains(name), $"'{name}' of '{query}' is no metric"));
            string[] labels = [.. Regex.Matches(query, "by \\(([^)]*)\\)").SelectMany(static match => match.Groups[1].Value.Split(", ")).Except(["instance"])];     // which Prometheus adds
            Assert.All(labels, label => Assert.True(read.Samples.Keys.Any(sample => sample.StartsWith(named[0] + "{", StringComparison.Ordinal) && sample.Contains(label + "=\"", StringComparison.Ordinal)),
                $"'{label}' of '{query}' is no label of it"));
        }
    }

    [Fact]
    public async Task Documentation_OfMetrics_NamesEachAndNoOther()
    {
        Exposition read = await ReadAfterEverythingAsync();
        HashSet<string> documented = [.. Regex.Matches(Repository.Read("docs/operations.md"), "^\\| `(checkpoint_engine_[a-z_]+)`", RegexOptions.Multiline).Select(static match => match.Groups[1].Value)];
        HashSet<string> told = [.. read.Types.Keys.Where(static family => family.StartsWith("checkpoint_engine_", StringComparison.Ordinal)), .. NotProvoked];
        Assert.Equal(told.Order(StringComparer.Ordinal), documented.Order(StringComparer.Ordinal));
    }

    // What the engine counts that this test does not bring about; others do, by the instruments' own names.
    private static string[] NotProvoked => ["checkpoint_engine_join_digest_mismatches_total"];

    [Theory]
    [InlineData(false, null, HttpStatusCode.Unauthorized)]
    [InlineData(false, "Bearer secret-token", HttpStatusCode.OK)]
    [InlineData(false, "Basic eDpzZWNyZXQtdG9rZW4=", HttpStatusCode.Unauthorized)]
    [InlineData(true, null, HttpStatusCode.OK)]
    public async Task Metrics_WithATokenSet_DemandItUnlessOpen(bool open, string? authorization, HttpStatusCode status)
    {
        await using TestServer server = await TestServer.StartAsync(configure: options => (options.Token, options.MetricsOpen) = (AccessToken.FromText("secret-token"), open));
        using HttpResponseMessage reply = await server.GetAsync("/metrics", authorization is null ? [] : [("Authorization", authorization)]);
        Assert.Equal(status, reply.StatusCode);
        using HttpResponseMessage page = await server.GetAsync("/");
        Assert.Equal(HttpStatusCode.Unauthorized, page.StatusCode);
    }

    [Fact]
    public async Task Metrics_ForWhoWantsOpenMetrics_EndAsItDemands()
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await server.GetAsync("/metrics", ("Accept", "application/openmetrics-text; version=1.0.0"));
        Assert.Equal("application/openmetrics-text", reply.Content.Headers.ContentType?.MediaType);
        Assert.EndsWith("# EOF\n", await reply.Content.ReadAsStringAsync(Cancel), StringComparison.Ordinal);
    }

    private static IEnumerable<string> FindQueries(JsonElement element) => element.ValueKind switch
    {
        JsonValueKind.Object => element.EnumerateObject().SelectMany(static member => member is { Name: "expr", Value.ValueKind: JsonValueKind.String } ? [member.Value.GetString()!] : FindQueries(member.Value)),
        JsonValueKind.Array => element.EnumerateArray().SelectMany(FindQueries),
        _ => [],
    };
}
