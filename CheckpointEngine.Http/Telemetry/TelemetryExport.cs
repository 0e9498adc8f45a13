using CheckpointEngine.Telemetry;
using OpenTelemetry;
using OpenTelemetry.Exporter;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;

namespace CheckpointEngine.Http.Telemetry;

/// <summary>
/// Brings the engine's metrics, and the web server's and the runtime's, to <c>/metrics</c> of a <see cref="CheckpointEngineHost"/>; and, where a collector is named, metrics and traces to
/// it over OTLP.
/// </summary>
/// <remarks>
/// Counts from its start on: made before the <see cref="ParameterServer"/>, it misses nothing. Dispose sends what was not sent yet, for some seconds at most. A collector that
/// cannot be reached is an error of nobody's: what cannot be sent is dropped.
/// </remarks>
public sealed class TelemetryExport : IDisposable
{
    private const string EndpointVariable = "OTEL_EXPORTER_OTLP_ENDPOINT";
    private const string ProtocolVariable = "OTEL_EXPORTER_OTLP_PROTOCOL";
    private const string NameVariable = "OTEL_SERVICE_NAME";

    private readonly TracerProvider? _traces;

    private TelemetryExport(MeterProvider metrics, TracerProvider? traces)
    {
        Metrics = metrics;
        _traces = traces;
    }

    internal MeterProvider Metrics { get; }

    /// <summary>Whether a collector is named in <paramref name="collector"/> or by <c>OTEL_EXPORTER_OTLP_ENDPOINT</c>.</summary>
    public static bool HasCollector(Uri? collector) => collector is not null || !string.IsNullOrEmpty(Environment.GetEnvironmentVariable(EndpointVariable));

    /// <summary>Starts to listen.</summary>
    /// <param name="collector">
    /// Base URL of an OTLP collector, which gets protobuf over HTTP at <c>v1/metrics</c> and <c>v1/traces</c> below it. Null: what <c>OTEL_EXPORTER_OTLP_ENDPOINT</c> and its like say, over
    /// HTTP unless <c>OTEL_EXPORTER_OTLP_PROTOCOL</c> is <c>grpc</c>; nowhere when it is not set.
    /// </param>
    public static TelemetryExport Start(Uri? collector = null)
    {
        MeterProviderBuilder metrics = Sdk.CreateMeterProviderBuilder().ConfigureResource(Describe)
            .AddMeter(EngineTelemetry.MeterName, "Microsoft.AspNetCore.Hosting", "Microsoft.AspNetCore.Server.Kestrel", "System.Runtime")
            .AddPrometheusExporter();
        if (!HasCollector(collector))
        {
            return new TelemetryExport(metrics.Build(), null);
        }
        TracerProvider traces = Sdk.CreateTracerProviderBuilder().ConfigureResource(Describe)
            .AddSource(EngineTelemetry.ActivitySourceName)
            .AddOtlpExporter(options => Configure(options, collector, "v1/traces"))
            .Build();
        return new TelemetryExport(metrics.AddOtlpExporter(options => Configure(options, collector, "v1/metrics")).Build(), traces);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _traces?.Dispose();
        Metrics.Dispose();
    }

    private static void Describe(ResourceBuilder resource)
        => resource.AddService(Environment.GetEnvironmentVariable(NameVariable) is { Length: > 0 } name ? name : "checkpoint-engine", serviceVersion: EngineVersion.Text);

    private static void Configure(OtlpExporterOptions options, Uri? collector, string path)
    {
        if (collector is not null)
        {
            options.Endpoint = new Uri($"{collector.AbsoluteUri.TrimEnd('/')}/{path}");
            options.Protocol = OtlpExportProtocol.HttpProtobuf;
        }
        else if (string.IsNullOrEmpty(Environment.GetEnvironmentVariable(ProtocolVariable)))
        {
            options.Protocol = OtlpExportProtocol.HttpProtobuf;
        }
    }
}
