using System.CommandLine;
using System.CommandLine.Parsing;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Cli.Output;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli.Options;

/// <summary>Where metas come from: URLs, or a file.</summary>
internal sealed class SourceOptions
{
    private readonly Option<string[]> _url = OptionRules.Repeated("--metas-url", "URL",
        "Where a holder tells its metas: http(s)://HOST:PORT/v1/metas, unix:/run/ce.sock:/v1/metas, or ce://HOST:PORT/NAME (peer service; ce+tls:// with TLS); given several times, these are replicas");

    private readonly Option<string> _file = new("--load-metas-file") { Description = "File with metas, pickle or JSON", HelpName = "FILE" };

    public SourceOptions(Command command)
    {
        Group = new OptionGroup("Source (one of the two)", [_url, _file]);
        command.Validators.Add(result =>
        {
            if (result.IsGiven(_url) == result.IsGiven(_file))
            {
                result.AddError("give one of --metas-url URL and --load-metas-file FILE");
            }
        });
    }

    public OptionGroup Group { get; }

    /// <summary>The only URL; null when there are several, or a file.</summary>
    public string? OnlyUrl(SymbolResult result) => result.GetValue(_url) is [string url] ? url : null;

    /// <inheritdoc cref="OnlyUrl(SymbolResult)"/>
    public string? OnlyUrl(ParseResult parsed) => parsed.GetValue(_url) is [string url] ? url : null;

    /// <summary>Whether the metas are told by somebody who can be asked again.</summary>
    public bool HasUrl(ParseResult parsed) => parsed.IsGiven(_url);

    /// <summary>Fetches or reads the metas; of several URLs, those that cannot be had are told of and left out.</summary>
    /// <exception cref="CheckpointEngineException">Not reached, refused, not found or malformed; of several URLs, all of them.</exception>
    public async Task<CheckpointMetas> ReadAsync(ParseResult parsed, MetasClientOptions options, CancellationToken cancellationToken)
    {
        if (parsed.GetValue(_file) is { } file)
        {
            return await MetasClient.ReadFileAsync(file, cancellationToken).ConfigureAwait(false);
        }
        using var client = new MetasClient(options);
        return await client.FetchReplicasAsync(parsed.GetRequiredValue(_url), static failure => Stderr.Warning($"went on without it: {failure.Message}"), cancellationToken)
            .ConfigureAwait(false);
    }
}
