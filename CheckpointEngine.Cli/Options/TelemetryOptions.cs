using System.CommandLine;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Http.Telemetry;

namespace CheckpointEngine.Cli.Options;

/// <summary>Whom metrics and traces are sent to.</summary>
internal sealed class TelemetryOptions
{
    private readonly Option<string> _otlp = new("--otlp")
    {
        Description = "Send metrics and traces to this OpenTelemetry collector (protobuf over HTTP); without it the environment's OTEL_EXPORTER_OTLP_ENDPOINT, if set",
        HelpName = "URL",
    };

    public TelemetryOptions(Command command)
    {
        Group = new OptionGroup("Telemetry", [_otlp]);
        command.Validators.Add(result =>
        {
            if (result.GetValue(_otlp) is { } url && !(Uri.TryCreate(url, UriKind.Absolute, out Uri? collector) && collector.Scheme is "http" or "https"))
            {
                result.AddError($"--otlp: '{url}' is not http://HOST:PORT or https://HOST:PORT");
            }
        });
    }

    public OptionGroup Group { get; }

    /// <summary>Starts to count and to send; null when nobody would see it.</summary>
    /// <param name="parsed">The command line.</param>
    /// <param name="serves">Whether there is a <c>/metrics</c> to be read.</param>
    public TelemetryExport? Start(ParseResult parsed, bool serves)
    {
        Uri? collector = parsed.GetValue(_otlp) is { } url ? new Uri(url) : null;
        return serves || TelemetryExport.HasCollector(collector) ? TelemetryExport.Start(collector) : null;
    }
}
