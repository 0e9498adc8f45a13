using System.CommandLine;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli.Options;

/// <summary>Where metas come from: exactly one of a URL and a file.</summary>
internal sealed class SourceOptions
{
    private readonly Option<string> _url = new("--metas-url")
    {
        Description = "Where a holder tells its metas: http(s)://HOST:PORT/v1/metas, unix:/run/ce.sock:/v1/metas, or ce://HOST:PORT/NAME (peer service)",
        HelpName = "URL",
    };

    private readonly Option<string> _file = new("--load-metas-file") { Description = "File with metas, pickle or JSON", HelpName = "FILE" };

    public SourceOptions(Command command)
    {
        Group = new OptionGroup("Source (exactly one)", [_url, _file]);
        command.Validators.Add(result =>
        {
            if (result.IsGiven(_url) == result.IsGiven(_file))
            {
                result.AddError("give exactly one of --metas-url URL and --load-metas-file FILE");
            }
        });
    }

    public OptionGroup Group { get; }

    /// <summary>Fetches or reads the metas.</summary>
    /// <exception cref="CheckpointEngineException">Not reached, refused, not found or malformed.</exception>
    public async Task<CheckpointMetas> ReadAsync(ParseResult parsed, MetasClientOptions options, CancellationToken cancellationToken)
    {
        if (parsed.GetValue(_file) is { } file)
        {
            return await MetasClient.ReadFileAsync(file, cancellationToken).ConfigureAwait(false);
        }
        using var client = new MetasClient(options);
        return await client.FetchAsync(parsed.GetRequiredValue(_url), cancellationToken).ConfigureAwait(false);
    }
}
