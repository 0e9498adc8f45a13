using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Http.Tests.Telemetry;

/// <summary>What a collector gets.</summary>
[Collection(nameof(MetricsTests))]
public sealed class OtlpTests : IDisposable
{
    // opentelemetry-proto: resource_metrics 1, scope_metrics 2, metrics 2, name 1, unit 3; resource_spans 1, scope_spans 2, spans 2, name 5; resource 1, attributes 1, value 2, string 1.
    private const string Metrics = "/v1/metrics";
    private const string Traces = "/v1/traces";

    private readonly string _directory = Directory.CreateTempSubdirectory("ce-otlp-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    private async Task JoinAsync()
    {
        await using var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [SmallModel.Write(_directory)], Cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp }, null, Cancel);
    }

    [Fact]
    public async Task Collector_AfterAJoin_HasItsMetricsAndItsTrace()
    {
        await using Collector collector = await Collector.StartAsync();
        using (TelemetryExport.Start(collector.Uri))
        {
            await JoinAsync();
        }
        Assert.All(collector.Received, static message => Assert.Equal("application/x-protobuf", message.ContentType));
        IReadOnlyList<string> metrics = collector.TextsAt(Metrics, 1, 2, 2, 1);
        Assert.Contains("checkpoint_engine.join.read", metrics);
        Assert.Contains("checkpoint_engine.serve.sent", metrics);
        Assert.Contains("By", collector.TextsAt(Metrics, 1, 2, 2, 3));
        IReadOnlyList<string> spans = collector.TextsAt(Traces, 1, 2, 2, 5);
        Assert.Equal(["allocate", "join", "plan", "transfer", "verify", "write"], spans.Order(StringComparer.Ordinal));
        Assert.Contains("checkpoint-engine", collector.TextsAt(Traces, 1, 1, 1, 2, 1));
        Assert.Contains(EngineVersion.Text, collector.TextsAt(Metrics, 1, 1, 1, 2, 1));
    }

    [Fact]
    public async Task Collector_NamedByTheEnvironment_GetsProtobufOverHttp()
    {
        await using Collector collector = await Collector.StartAsync();
        Environment.SetEnvironmentVariable("OTEL_EXPORTER_OTLP_ENDPOINT", collector.Uri.AbsoluteUri);
        try
        {
            Assert.True(TelemetryExport.HasCollector(null));
            using (TelemetryExport.Start())
            {
                await JoinAsync();
            }
        }
        finally
        {
            Environment.SetEnvironmentVariable("OTEL_EXPORTER_OTLP_ENDPOINT", null);
        }
        Assert.Contains("checkpoint_engine.joins", collector.TextsAt(Metrics, 1, 2, 2, 1));
        Assert.Contains("join", collector.TextsAt(Traces, 1, 2, 2, 5));
        Assert.False(TelemetryExport.HasCollector(null));
    }

    [Fact]
    public async Task Collector_ThatIsNotThere_HoldsUpNobody()
    {
        Uri gone;
        await using (Collector collector = await Collector.StartAsync())
        {
            gone = collector.Uri;
        }
        long start = Environment.TickCount64;
        using (TelemetryExport.Start(gone))
        {
            await JoinAsync();
        }
        Assert.InRange(Environment.TickCount64 - start, 0, 30_000);
    }
}
